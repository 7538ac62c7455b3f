use serde::Serialize;

/// JSON as Go's encoder writes it with an indent of two spaces.
pub(super) fn indented(value: &impl Serialize) -> Result<String, serde_json::Error> {
    let compact = serde_json::to_string(value)?;
    // What was escaped already has nothing more to escape.
    Ok(indent(&rbuild_llb::go_escaped(&compact)))
}

/// Spreads compact JSON over lines; empty lists and objects stay on theirs.
fn indent(json: &str) -> String {
    let mut out = String::with_capacity(json.len() * 2);
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut escaped = false;
    let mut chars = json.chars().peekable();
    while let Some(c) = chars.next() {
        if in_string {
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
            out.push(c);
            continue;
        }
        match c {
            '{' | '[' => {
                out.push(c);
                if let Some(close) = chars.next_if(|next| matches!(next, '}' | ']')) {
                    out.push(close);
                } else {
                    depth += 1;
                    new_line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                new_line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                new_line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            '"' => {
                in_string = true;
                out.push(c);
            }
            _ => out.push(c),
        }
    }
    out
}

fn new_line(out: &mut String, depth: usize) {
    out.push('\n');
    for _ in 0..depth {
        out.push_str("  ");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_left_alone_and_empty_ones_stay_together() {
        let text = indent(r#"{"a":[],"b":{},"c":["x:{,\"]\\",1]}"#);
        assert_eq!(text, "{\n  \"a\": [],\n  \"b\": {},\n  \"c\": [\n    \"x:{,\\\"]\\\\\",\n    1\n  ]\n}");
    }

    #[test]
    fn marks_of_html_are_escaped() {
        assert_eq!(indented(&"<a>&").unwrap(), "\"\\u003ca\\u003e\\u0026\"");
    }
}
