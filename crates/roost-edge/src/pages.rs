//! The edge's own answers: what is wrong, why, and what to do, with a stable
//! code and the request id. HTML for browsers, JSON for programs that ask for
//! it, plain text for the rest.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};

/// An answer of the edge itself.
#[derive(Debug, Clone)]
pub(crate) struct Page {
    pub(crate) status: StatusCode,
    /// A stable code in lower case with dashes.
    pub(crate) code: &'static str,
    /// One sentence.
    pub(crate) title: String,
    /// More, one line each.
    pub(crate) details: Vec<String>,
    /// What to do next, one line each.
    pub(crate) next: Vec<String>,
    /// Headers of this answer.
    pub(crate) headers: Vec<(header::HeaderName, HeaderValue)>,
}

impl Page {
    /// A page of one sentence.
    pub(crate) fn new(status: StatusCode, code: &'static str, title: impl Into<String>) -> Self {
        Self {
            status,
            code,
            title: title.into(),
            details: Vec::new(),
            next: Vec::new(),
            headers: Vec::new(),
        }
    }

    /// A page about a malformed or refused request, after which the connection is closed.
    pub(crate) fn refused(
        status: StatusCode,
        code: &'static str,
        title: impl Into<String>,
    ) -> Self {
        Self::new(status, code, title).header(header::CONNECTION, HeaderValue::from_static("close"))
    }

    pub(crate) fn detail(mut self, line: impl Into<String>) -> Self {
        self.details.push(line.into());
        self
    }

    pub(crate) fn next(mut self, line: impl Into<String>) -> Self {
        self.next.push(line.into());
        self
    }

    pub(crate) fn header(mut self, name: header::HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    pub(crate) fn retry_after(self, seconds: u16) -> Self {
        self.header(header::RETRY_AFTER, seconds.into())
    }

    /// The content type and the text, in the form that the client accepts.
    pub(crate) fn render(&self, accept: Form, request_id: &str) -> (HeaderValue, Bytes) {
        let (content_type, text) = match accept {
            Form::Json => ("application/json", self.json(request_id)),
            Form::Html => ("text/html; charset=utf-8", self.html(request_id)),
            Form::Text => ("text/plain; charset=utf-8", self.text(request_id)),
        };
        (HeaderValue::from_static(content_type), Bytes::from(text))
    }

    fn json(&self, request_id: &str) -> String {
        #[derive(serde::Serialize)]
        struct Body<'a> {
            error: &'a str,
            code: &'a str,
            status: u16,
            details: &'a [String],
            next: &'a [String],
            request_id: &'a str,
        }
        let body = Body {
            error: &self.title,
            code: self.code,
            status: self.status.as_u16(),
            details: &self.details,
            next: &self.next,
            request_id,
        };
        let mut text = serde_json::to_string(&body).expect("strings and numbers always serialise");
        text.push('\n');
        text
    }

    fn text(&self, request_id: &str) -> String {
        let mut text = format!("{} {}\n", self.status.as_u16(), self.title);
        for line in &self.details {
            text.push_str(&format!("  {line}\n"));
        }
        for line in &self.next {
            text.push_str(&format!("-> {line}\n"));
        }
        text.push_str(&format!("code {}, request {request_id}\n", self.code));
        text
    }

    fn html(&self, request_id: &str) -> String {
        let list = |lines: &[String], class: &str| {
            if lines.is_empty() {
                return String::new();
            }
            let items: String = lines
                .iter()
                .map(|line| format!("<li>{}</li>", escape(line)))
                .collect();
            format!("<ul class=\"{class}\">{items}</ul>")
        };
        format!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width\"><title>{status} {title}</title>\
             <style>body{{font:16px/1.5 system-ui,sans-serif;max-width:42rem;margin:10vh auto;padding:0 1rem;\
             color-scheme:light dark}}h1{{font-size:1.4rem}}.next{{list-style:'→ '}}footer{{opacity:.6;\
             font-size:.85rem;margin-top:2rem}}</style></head><body><h1>{status} {title}</h1>{details}{next}\
             <footer>code <code>{code}</code> · request <code>{request_id}</code> · roost</footer></body></html>\n",
            status = self.status.as_u16(),
            title = escape(&self.title),
            details = list(&self.details, "details"),
            next = list(&self.next, "next"),
            code = self.code,
        )
    }
}

fn escape(text: &str) -> String {
    text.chars()
        .fold(String::with_capacity(text.len()), |mut out, c| {
            match c {
                '&' => out.push_str("&amp;"),
                '<' => out.push_str("&lt;"),
                '>' => out.push_str("&gt;"),
                '"' => out.push_str("&quot;"),
                '\'' => out.push_str("&#39;"),
                c => out.push(c),
            }
            out
        })
}

/// The form of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Html,
    Json,
    Text,
}

impl Form {
    /// The first of the known types in `Accept`; text when there is none.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let accept = headers
            .get(header::ACCEPT)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let types = accept
            .split(',')
            .map(|range| range.split(';').next().unwrap_or_default().trim());
        for media_type in types {
            match media_type {
                "text/html" | "application/xhtml+xml" => return Self::Html,
                "application/json" => return Self::Json,
                "text/plain" => return Self::Text,
                _ => {}
            }
        }
        Self::Text
    }
}

#[cfg(test)]
mod tests {
    use super::{Form, Page};
    use http::{HeaderMap, HeaderValue, StatusCode, header};

    #[test]
    fn a_page_has_the_form_that_is_asked_for_and_escapes_what_it_quotes() {
        let page = Page::new(StatusCode::NOT_FOUND, "some-code", "no <b>").detail("x & y");
        let html = page.render(Form::Html, "req").1;
        let html = std::str::from_utf8(&html).unwrap();
        assert!(
            html.contains("no &lt;b&gt;") && html.contains("x &amp; y") && !html.contains("<b>")
        );
        let json: serde_json::Value =
            serde_json::from_slice(&page.render(Form::Json, "req").1).unwrap();
        assert_eq!(
            (&json["code"], &json["request_id"]),
            (&"some-code".into(), &"req".into())
        );
        for (accept, form) in [
            ("text/html,application/xhtml+xml;q=0.9", Form::Html),
            ("application/json", Form::Json),
            ("*/*", Form::Text),
            ("", Form::Text),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            assert_eq!(Form::of(&headers), form, "{accept}");
        }
    }
}
