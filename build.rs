//! The docstrings of the extension's classes, from the stub that has their signatures: what an editor
//! and the site show, `help` shows too.

use std::path::Path;
use std::{env, fs, io};

const STUB: &str = "python/redfloe/_core.pyi";

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed={STUB}");
    if env::var_os("CARGO_FEATURE_PYTHON").is_none() {
        return Ok(());
    }
    let out = env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?;
    for (name, text) in docstrings(&fs::read_to_string(STUB)?) {
        fs::write(Path::new(&out).join(format!("{name}.txt")), text)?;
    }
    Ok(())
}

/// The docstring of each `Class`, and of each `Class.method`.
fn docstrings(stub: &str) -> Vec<(String, String)> {
    let (mut found, mut class, mut name) = (Vec::new(), String::new(), String::new());
    let mut lines = stub.lines();
    while let Some(line) = lines.next() {
        let text = line.trim_start();
        let indent = line.len() - text.len();
        let identifier = |rest: &str| -> String {
            rest.chars().take_while(|one| one.is_alphanumeric() || *one == '_').collect()
        };
        if let Some(rest) = line.strip_prefix("class ") {
            class = identifier(rest);
            name.clone_from(&class);
        } else if let Some(rest) = text.strip_prefix("def ") {
            let function = identifier(rest);
            name = if indent == 0 { function } else { format!("{class}.{function}") };
        } else if let Some(first) = text.strip_prefix("\"\"\"") {
            let mut docstring = vec![first];
            while !docstring.last().is_some_and(|last| last.ends_with("\"\"\"")) {
                let Some(line) = lines.next() else { break };
                docstring.push(line.get(indent..).unwrap_or_default());
            }
            let text = docstring.join("\n");
            found.push((name.clone(), text.trim_end_matches("\"\"\"").trim_end().to_owned()));
        }
    }
    found
}
