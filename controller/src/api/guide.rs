//! The operators' guide as a page, so that the links of alerts open.

use axum::{
    http::header,
    response::{Html, IntoResponse as _, Response},
};
use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd, html};
use std::sync::LazyLock;

const GUIDE: &str = include_str!("../../../systemd/GUIDE.md");

/// The page: without scripts, styles and external resources.
pub(super) async fn answer() -> Response {
    static PAGE: LazyLock<String> = LazyLock::new(|| page(GUIDE));
    let headers = [
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, Html(PAGE.as_str())).into_response()
}

/// The anchor of a heading, in the form that Git forges use.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).flat_map(char::to_lowercase).collect()
}

fn page(markdown: &str) -> String {
    let mut events: Vec<Event<'_>> = Parser::new_ext(markdown, Options::ENABLE_TABLES).collect();
    for start in 0..events.len() {
        if !matches!(events[start], Event::Start(Tag::Heading { .. })) {
            continue;
        }
        let inside = events[start + 1..].iter().take_while(|it| !matches!(it, Event::End(TagEnd::Heading(_))));
        let text: String = inside
            .filter_map(|it| match it {
                Event::Text(text) | Event::Code(text) => Some(text.as_ref()),
                _ => None,
            })
            .collect();
        if let Event::Start(Tag::Heading { id, .. }) = &mut events[start] {
            *id = Some(anchor(&text).into());
        }
    }
    let mut body = String::new();
    html::push_html(&mut body, events.into_iter());
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>Running cps-peering</title>\n{body}</html>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_heading_can_be_linked_to() {
        let page = page(GUIDE);
        let headings = GUIDE.lines().filter_map(|line| line.strip_prefix("### "));
        for heading in headings {
            assert!(page.contains(&format!("<h3 id=\"{}\">", anchor(heading))), "{heading}");
        }
        assert!(
            page.contains("<h2 id=\"what-each-alert-means-and-what-to-do\">") && page.contains("<table>"),
            "{page}"
        );
        assert_eq!(anchor("Back-up and restore: `etcd`, twice"), "back-up-and-restore-etcd-twice");
    }
}
