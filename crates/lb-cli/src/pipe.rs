//! A reader that has seen enough, as in `lb eval | head`, is no failure to tell about.

/// What a shell reports of a process that SIGPIPE ended; the system's default, which Rust turns off.
const EXIT_CODE: i32 = 141;

/// From now on the process ends quietly when nobody reads its output any longer.
pub fn install() {
    let otherwise = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // `println!` and `eprintln!` panic with this text; there is nothing else to know it by.
        let text = panic.payload_as_str().unwrap_or_default();
        if text.starts_with("failed printing to std") && text.contains("Broken pipe") {
            std::process::exit(EXIT_CODE);
        }
        otherwise(panic);
    }));
}
