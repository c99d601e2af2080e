use super::Candidate;
use crate::policy::check_file;
use anyhow::bail;

pub(super) fn run(args: &Candidate, json: bool) -> anyhow::Result<()> {
    let (report, generation) = check_file(&Candidate::engine()?, &args.file, &args.settings);
    if json {
        crate::cli::print_json(&report)?;
        return match &report.refused {
            Some((stage, error)) => bail!("refused at {stage}: {error}"),
            None => Ok(()),
        };
    }
    println!("{} sha256 {}", args.file.display(), report.sha256);
    for stage in &report.stages {
        let verdict = match &report.refused {
            Some((failed, error)) if *failed == stage.stage => format!("refused: {error}"),
            _ => "ok".into(),
        };
        println!("  {:<12} {:>9.3} ms  {verdict}", stage.stage, stage.micros as f64 / 1e3);
    }
    match (generation, report.refused) {
        (Some(generation), _) => {
            println!("{}: a {:?} policy, version {}", generation.name, generation.kind, generation.version);
            for claim in generation.claims() {
                let header = claim.header.as_ref().map(|h| format!(" with {h}")).unwrap_or_default();
                println!("  serves {} {}{header}", claim.method, claim.path);
            }
            Ok(())
        }
        (None, Some((stage, error))) => bail!("refused at {stage}: {error}"),
        (None, None) => bail!("refused"),
    }
}
