//! Arguments in, exit code out.

use std::process::ExitCode;

use clap::Parser;
use pgcauseway::cli::{self, Arguments, sysexits};

fn main() -> ExitCode {
    match Arguments::try_parse() {
        Ok(arguments) => cli::run(arguments),
        Err(error) => {
            let wrong = error.use_stderr();
            // A closed standard output leaves nobody to tell.
            let _ = error.print();
            if wrong {
                ExitCode::from(sysexits::USAGE)
            } else {
                ExitCode::SUCCESS
            }
        }
    }
}
