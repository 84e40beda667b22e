//! Writes a picture of the synthetic test set, one row a class: `contact_sheet [OUT.png]`.

use lb_data::{SIDE, Split, SyntheticConfig};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const ZOOM: usize = 3;
    let out = std::env::args()
        .nth(1)
        .unwrap_or("/tmp/synthetic.png".into());
    let config = SyntheticConfig {
        test: 160,
        ..SyntheticConfig::default()
    };
    let set = config.generate(Split::Test)?;
    let cell = (SIDE + 1) * ZOOM;
    let columns = set.len() / set.classes();
    let mut sheet = image::RgbImage::new((cell * columns) as u32, (cell * set.classes()) as u32);
    for i in 0..set.len() {
        let (column, row) = (i / set.classes(), i % set.classes());
        let pixels = set.image(i);
        for y in 0..SIDE * ZOOM {
            for x in 0..SIDE * ZOOM {
                let at = y / ZOOM * SIDE + x / ZOOM;
                let rgb = [0, 1, 2].map(|c| pixels[c * SIDE * SIDE + at]);
                sheet.put_pixel(
                    (column * cell + x) as u32,
                    (row * cell + y) as u32,
                    image::Rgb(rgb),
                );
            }
        }
    }
    sheet.save(&out)?;
    println!("{out}");
    Ok(())
}
