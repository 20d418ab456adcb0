//! The facts as a page and as JSON.

use crate::facts::Snapshot;

const STYLE: &str = "
:root{color-scheme:light dark;font:16px/1.5 system-ui,sans-serif}
body{max-width:36rem;margin:12vh auto;padding:0 1.25rem}
h1{font-size:2.25rem;margin:0 0 .25rem}p{margin:.25rem 0 1.5rem;opacity:.75}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.5rem 1.5rem;margin:0}
dt{opacity:.65}dd{margin:0;font-family:ui-monospace,monospace;overflow-wrap:anywhere}
";

/// The page.
pub(crate) fn html(snapshot: &Snapshot) -> String {
    let rows: String = rows(snapshot)
        .iter()
        .map(|(name, value)| format!("<dt>{name}</dt><dd>{}</dd>\n", escaped(value)))
        .collect();
    let count = snapshot.n_requests;
    let times = if count == 1 {
        "once".to_owned()
    } else {
        format!("{count} times")
    };
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>hello</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<h1>Hello.</h1>\n\
         <p>This machine has been asked {times}.</p>\n<dl>\n{rows}</dl>\n</body>\n</html>\n"
    )
}

fn rows(snapshot: &Snapshot) -> [(&'static str, String); 6] {
    let mib = |value: Option<u64>| value.map_or("unknown".into(), |mib| format!("{mib} MiB"));
    let used = mib(snapshot.memory_used_mib);
    [
        ("machine", snapshot.machine.clone()),
        ("app", snapshot.app.clone()),
        ("region", snapshot.region.clone()),
        ("image", snapshot.image.clone()),
        (
            "memory",
            format!("{used} of {}", mib(snapshot.memory_limit_mib)),
        ),
        ("up for", format!("{} s", snapshot.uptime_seconds)),
    ]
}

/// The same as JSON.
pub(crate) fn json(snapshot: &Snapshot) -> String {
    let number = |value: Option<u64>| value.map_or("null".to_owned(), |value| value.to_string());
    format!(
        "{{\"requests\":{},\"machine\":{},\"app\":{},\"region\":{},\"image\":{},\
         \"memory_used_mib\":{},\"memory_limit_mib\":{},\"uptime_seconds\":{}}}\n",
        snapshot.n_requests,
        quoted(&snapshot.machine),
        quoted(&snapshot.app),
        quoted(&snapshot.region),
        quoted(&snapshot.image),
        number(snapshot.memory_used_mib),
        number(snapshot.memory_limit_mib),
        snapshot.uptime_seconds,
    )
}

/// The text as a JSON string.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            control if control.is_control() => {
                out.push_str(&format!("\\u{:04x}", u32::from(control)));
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::{html, json};
    use crate::facts::Snapshot;

    #[test]
    fn hostile_names_stay_text_in_both_forms() {
        let snapshot = Snapshot {
            machine: "a\"b\\c\n".into(),
            app: "<script>".into(),
            region: "local".into(),
            image: "x".into(),
            n_requests: 1,
            uptime_seconds: 2,
            memory_limit_mib: None,
            memory_used_mib: Some(3),
        };
        let text = json(&snapshot);
        assert!(
            text.contains(r#""machine":"a\"b\\c\u000a""#) && text.contains("null"),
            "{text}"
        );
        let page = html(&snapshot);
        assert!(page.contains("&lt;script&gt;") && !page.contains("<script>"));
        assert!(page.contains("asked once"));
    }
}
