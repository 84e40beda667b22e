//! Tables on standard output, in Markdown so that they can be pasted.

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{Cell, CellAlignment, Table};

/// A table with its head; the first column is text, the others align right.
pub struct Rows(Table);

impl Rows {
    /// An empty table.
    pub fn new(head: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_style(ASCII_MARKDOWN);
        table.set_header(head.iter().map(Cell::new));
        Self(table)
    }

    /// Adds a row.
    pub fn add(&mut self, cells: Vec<String>) {
        let cell = |(i, text): (usize, String)| {
            let align = if i == 0 {
                CellAlignment::Left
            } else {
                CellAlignment::Right
            };
            Cell::new(text).set_alignment(align)
        };
        self.0.add_row(cells.into_iter().enumerate().map(cell));
    }

    /// Prints the table.
    pub fn print(&self) {
        println!("{}", self.0);
    }
}

/// `0.8123` as `81.23`.
pub fn percent(x: f64) -> String {
    format!("{:.2}", x * 100.0)
}

/// `1234567` as `1,234,567`.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, d) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(d);
    }
    text
}

/// Images a second: three digits or more.
pub fn rate(x: f64) -> String {
    match x < 100.0 {
        true => format!("{x:.1}"),
        false => thousands(x.round() as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(percent(0.81234), "81.23");
        assert_eq!(rate(12.34), "12.3");
        assert_eq!(rate(3459.4), "3,459");
    }
}
