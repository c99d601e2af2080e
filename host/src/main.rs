use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    match cortex::cli::run(cortex::cli::Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cortex: {error:#}");
            ExitCode::from(cortex::cli::code(&error))
        }
    }
}
