//! A call as a name before its arguments: Mistral's and DeepSeek's.

use super::{Piece, Progress, Tool, json::Nesting, notation::DEEPSEEK_SEPARATOR};

/// Bytes before the arguments.
const MAX_HEAD: usize = 1 << 10;

/// Reads up to the end of the arguments.
#[derive(Debug, Clone, Default)]
pub(super) struct NamedCall {
    head: String,
    arguments: Option<Nesting>,
}

impl NamedCall {
    pub(super) fn push(&mut self, c: char, tools: &[Tool], out: &mut Vec<Piece>) -> Progress {
        if let Some(nesting) = &mut self.arguments {
            out.push(Piece::Arguments(c.to_string()));
            if !nesting.push(c) {
                return Progress::More;
            }
            out.push(Piece::End);
            return Progress::Done;
        }
        if c != '{' {
            self.head.push(c);
            return if self.head.len() > MAX_HEAD { Progress::Failed } else { Progress::More };
        }
        let name = name(&self.head);
        if !tools.iter().any(|tool| tool.name == name) {
            return Progress::Failed;
        }
        let mut nesting = Nesting::default();
        nesting.push(c);
        self.arguments = Some(nesting);
        out.extend([Piece::Begin(name.to_owned()), Piece::Arguments(c.to_string())]);
        Progress::More
    }
}

/// Of `function<｜tool▁sep｜>name`, `name<｜tool▁sep｜>`, `name[CALL_ID]…[ARGS]` and `name`.
fn name(head: &str) -> &str {
    let head = head.trim_start();
    let head = match head.strip_prefix("function") {
        Some(rest) => rest.strip_prefix(DEEPSEEK_SEPARATOR).unwrap_or(head),
        None => head,
    };
    let ends = [DEEPSEEK_SEPARATOR, "[CALL_ID]", "[ARGS]", "\n", "```"].map(|end| head.find(end));
    let end = ends.into_iter().flatten().min().unwrap_or(head.len());
    head[..end].trim()
}
