//! Output: tables for people, JSON and YAML for programs.

use std::io::Write as _;
use std::{fmt, io};

use serde::Serialize;

use super::client::Format;
use super::outcome::{Failure, Outcome};

/// Prints a line, as `println!` does. If standard output is closed, as by `| head`, the program exits without an error.
macro_rules! say {
    ($($part:tt)*) => { $crate::cli::text::line(format_args!($($part)*)) };
}
pub(super) use say;

/// Prints a line; see [`say`].
pub(super) fn line(text: fmt::Arguments<'_>) {
    if let Err(error) = writeln!(io::stdout().lock(), "{text}") {
        std::process::exit(if error.kind() == io::ErrorKind::BrokenPipe { 0 } else { 1 });
    }
}

/// Prints a value as JSON or YAML; returns false if the format is text.
pub(super) fn machine(format: Format, value: &impl Serialize) -> Result<bool, Failure> {
    match format {
        Format::Table => return Ok(false),
        Format::Json => say!("{}", serde_json::to_string_pretty(value).map_err(Failure::failed)?),
        Format::Yaml => say!("{}", serde_saphyr::to_string(value).map_err(Failure::failed)?.trim_end()),
    }
    Ok(true)
}

/// Prints a table with aligned columns.
pub(super) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> Outcome {
    let mut widths = head.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[String; N]| {
        let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    say!("{}", line(&head.map(|title| title.to_uppercase())));
    rows.iter().for_each(|row| say!("{}", line(row)));
    Ok(())
}
