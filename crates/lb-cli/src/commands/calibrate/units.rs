//! What refinement did, unit by unit, and why it stopped helping where it did.

use lb_resnet::ptq::UnitReport;

use crate::table::Rows;

/// Reconstruction that fits its own images better than others by this much, in dB, has too few of
/// them.
const LEARNT_BY_HEART: f64 = 1.0;

/// A gain below, in dB, is none worth its time.
const NOTHING: f64 = 0.1;

/// Prints a table for each refined file.
pub fn print(files: &[(String, Vec<UnitReport>)]) {
    for (widths, units) in files {
        let reconstructed = units.iter().any(|u| u.reconstructed.is_some());
        println!(
            "\nSignal to quantization noise of every unit's output, dB, {widths}: on calibration images{}, behind the refined units before it\n",
            match reconstructed {
                true => " held out of reconstruction",
                false => "",
            }
        );
        let mut head = vec!["unit", "quantized", "corrected"];
        if reconstructed {
            head.extend(["reconstructed", "on its own images", "seconds", "verdict"]);
        }
        let mut rows = Rows::new(&head);
        for u in units {
            let mut row = vec![u.unit.clone(), db(u.quantized_db), db(u.corrected_db)];
            if let Some(r) = &u.reconstructed {
                row.extend([db(r.held_out_db), db(r.own_db), format!("{:.1}", u.seconds)]);
                row.push(verdict(u).into());
            }
            rows.add(row);
        }
        rows.print();
    }
}

fn db(x: f64) -> String {
    format!("{x:.1}")
}

/// Whether reconstruction was worth it, and what limits it.
fn verdict(u: &UnitReport) -> &'static str {
    let Some(r) = &u.reconstructed else {
        return "";
    };
    let by_heart = r.own_db - r.held_out_db > LEARNT_BY_HEART;
    match (r.held_out_db - u.corrected_db, by_heart) {
        (gain, true) if gain <= 0.0 => "left as corrected: too few images",
        (gain, false) if gain <= 0.0 => "left as corrected: no better codes found",
        (gain, _) if gain < NOTHING => "kept, hardly better",
        (_, true) => "kept; more images would help",
        (_, false) => "kept; the bits limit it",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_resnet::ptq::Reconstructed;

    #[test]
    fn says_what_limits() {
        let verdict = |corrected_db, held_out_db, own_db| {
            verdict(&UnitReport {
                unit: "stem".into(),
                quantized_db: 1.0,
                corrected_db,
                reconstructed: Some(Reconstructed {
                    held_out_db,
                    own_db,
                }),
                kept: held_out_db > corrected_db,
                seconds: 1.0,
            })
        };
        assert!(verdict(10.0, 12.0, 12.2).contains("bits"));
        assert!(verdict(10.0, 12.0, 15.0).contains("more images"));
        assert!(verdict(10.0, 9.0, 15.0).contains("too few images"));
        assert!(verdict(10.0, 9.9, 10.0).contains("no better codes"));
        assert!(verdict(10.0, 10.05, 10.1).contains("hardly"));
    }
}
