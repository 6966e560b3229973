//! Shell scripts that play programs.

use std::path::Path;
use std::process::Command;

/// Makes `path` a shell script with this text, which can be run at once.
///
/// Another process writes it. While this one had it open, a thread that forks would hand the handle on to its
/// child, and until that child has become its program, running the script is "text file busy".
///
/// # Panics
///
/// If there is no shell, or no room.
pub fn script(path: &Path, text: &str) {
    let made = Command::new("/bin/sh")
        .args(["-c", "printf '#!/bin/sh\\n%s\\n' \"$1\" > \"$2\" && chmod 755 \"$2\"", "sh", text])
        .arg(path)
        .status()
        .expect("there is a shell");
    assert!(made.success(), "{} cannot be made", path.display());
}
