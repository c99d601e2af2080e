use clap::Parser;
use cortex::cli::{Cli, as_json, as_text, code, run};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let is_for_programs = cli.is_for_programs();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            match is_for_programs {
                true => eprintln!("{}", as_json(&error)),
                false => eprintln!("{}", as_text(&error)),
            }
            ExitCode::from(code(&error))
        }
    }
}
