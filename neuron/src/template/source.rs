//! What of a template the engine does not know, in words that it does.

/// The template as the engine takes it.
pub(super) fn adapt(source: &str) -> String {
    let source = source.replace("\r\n", "\n");
    let mut out = String::with_capacity(source.len());
    let mut rest = source.as_str();
    while let Some(start) = rest.find('{') {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        let Some(close) = closing(tag) else {
            out.push('{');
            rest = &tag[1..];
            continue;
        };
        let end = end_of(tag, close);
        let tag = &tag[..end];
        // What is raw is put out as it stands.
        if is_named(tag, "raw") {
            let raw = rest[start + end..].find("endraw").map_or(rest.len(), |at| start + end + at);
            out.push_str(&rest[start..raw]);
            rest = &rest[raw..];
            continue;
        }
        match marks_training(tag) {
            Some([open, close]) => out.push_str(&format!("{{%{open} if true %}}{{% endif {close}%}}")),
            None if close == "#}" => out.push_str(tag),
            None => join_lines(tag, &mut out),
        }
        rest = &rest[start + end..];
    }
    out.push_str(rest);
    out
}

/// What ends the tag that the text starts with, where it does.
fn closing(text: &str) -> Option<&'static str> {
    [("{%", "%}"), ("{{", "}}"), ("{#", "#}")]
        .iter()
        .find(|(open, _)| text.starts_with(open))
        .map(|(_, close)| *close)
}

/// Bytes of the tag; strings may hold what closes it.
fn end_of(tag: &str, close: &str) -> usize {
    let (mut at, mut quote) = (2, None);
    let bytes = tag.as_bytes();
    while at < bytes.len() {
        match quote {
            None if bytes[at..].starts_with(close.as_bytes()) => return at + close.len(),
            None if close != "#}" && matches!(bytes[at], b'"' | b'\'') => quote = Some(bytes[at]),
            Some(_) if bytes[at] == b'\\' => at += 1,
            Some(open) if bytes[at] == open => quote = None,
            _ => {}
        }
        at += 1;
    }
    tag.len()
}

/// `{% generation %}` and its end say which tokens are trained on: without meaning when a prompt is made, but for what
/// they strip at either side.
fn marks_training(tag: &str) -> Option<[&str; 2]> {
    let [open, within, close] = taken_apart(tag)?;
    matches!(within, "generation" | "endgeneration").then_some([open, close])
}

fn is_named(tag: &str, name: &str) -> bool {
    taken_apart(tag).is_some_and(|[_, within, _]| within == name)
}

/// A block's signs at either side, and what is between.
fn taken_apart(tag: &str) -> Option<[&str; 3]> {
    let within = tag.strip_prefix("{%")?.strip_suffix("%}")?;
    let sign = |text: &str| matches!(text, "-" | "+");
    let (open, within) = within.split_at_checked(1).filter(|(open, _)| sign(open)).unwrap_or(("", within));
    let at = within.len().saturating_sub(1);
    let (within, close) =
        within.split_at_checked(at).filter(|(_, close)| sign(close)).unwrap_or((within, ""));
    Some([open, within.trim(), close])
}

/// A backslash at the end of a line within a string joins it with the next, as in Python.
fn join_lines(tag: &str, out: &mut String) {
    let (mut quote, mut chars) = (None, tag.chars().peekable());
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(_), '\\') if chars.next_if_eq(&'\n').is_some() => continue,
            (Some(_), '\\') => {
                out.push(c);
                out.extend(chars.next());
                continue;
            }
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            _ => {}
        }
        out.push(c);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_engine_does_not_know_is_changed() {
        let check = |source: &str, expected: &str| assert_eq!(adapt(source), expected, "{source:?}");
        check(
            "a { b {{ c }} {# 'd #} {% if e %}f{% endif %}",
            "a { b {{ c }} {# 'd #} {% if e %}f{% endif %}",
        );
        check(
            "{% generation %}x{%- endgeneration -%}",
            "{% if true %}{% endif %}x{%- if true %}{% endif -%}",
        );
        check("{%generation+%}{%  endgeneration%}", "{% if true %}{% endif +%}{% if true %}{% endif %}");
        check("{% set generation = 1 %}", "{% set generation = 1 %}");
        check("{{ 'a\\\nb' }}\\\nc", "{{ 'ab' }}\\\nc");
        check("{{ 'a\\\\\nb\\'\\\n' }}", "{{ 'a\\\\\nb\\'' }}");
        check("{{ '}}' + \"{% generation %}\" }}\r\n", "{{ '}}' + \"{% generation %}\" }}\n");
        check("{# {% generation %} #}{{ open", "{# {% generation %} #}{{ open");
        check("ü{", "ü{");
        let raw = "{% raw %}{% generation %}{{ 'a\\\nb' }}{% endraw %}";
        check(&format!("{raw}{{{{ 'a\\\nb' }}}}"), &format!("{raw}{{{{ 'ab' }}}}"));
        check("{% raw %}{{", "{% raw %}{{");
    }
}
