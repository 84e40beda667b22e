//! `lb data`

use std::path::Path;

use anyhow::Result;
use lb_data::{DataSource, Split, fetch_cifar10, resolve_default};

use crate::args::DataCommand;
use crate::table::{Rows, thousands};
use crate::{interrupt, progress};

pub fn run(command: &DataCommand) -> Result<()> {
    match command {
        DataCommand::Fetch { set: _, dir, url } => fetch(dir, url.as_deref()),
        DataCommand::Info { data } => info(data.data.as_deref()),
    }
}

fn fetch(dir: &Path, url: Option<&str>) -> Result<()> {
    let bar = progress::bytes("cifar-10-binary.tar.gz");
    let mut show = |done: u64, total: Option<u64>| {
        if let Some(total) = total {
            bar.set_length(total);
        }
        bar.set_position(done);
    };
    let folder = fetch_cifar10(dir, url, &mut show, interrupt::flag());
    bar.finish_and_clear();
    println!("CIFAR-10 is in {}", folder?.display());
    Ok(())
}

fn info(spec: Option<&str>) -> Result<()> {
    let source = match spec {
        Some(spec) => DataSource::open(spec)?,
        None => resolve_default()?,
    };
    println!("{}", source.describe());
    let data = source.load_both()?;
    let mut rows = Rows::new(&["class", "train", "test"]);
    let (train, test) = (data.train.class_counts(), data.test.class_counts());
    for (i, name) in data.train.class_names().iter().enumerate() {
        rows.add(vec![
            name.clone(),
            thousands(train[i] as u64),
            thousands(test[i] as u64),
        ]);
    }
    let total = |split: Split| match split {
        Split::Train => thousands(data.train.len() as u64),
        Split::Test => thousands(data.test.len() as u64),
    };
    rows.add(vec!["all".into(), total(Split::Train), total(Split::Test)]);
    rows.print();
    Ok(())
}
