/// The text of the first element of this name. Answers of S3 are flat, without attributes where it matters.
pub(crate) fn element(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&#34;", "\"");
    // Last: an escaped ampersand may stand before what looks like another escape.
    Some(text.replace("&apos;", "'").replace("&#39;", "'").replace("&amp;", "&"))
}

/// Text as it stands in an element.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_found_and_unescaped() {
        let xml = "<R xmlns=\"x\"><UploadId>a&amp;lt;b</UploadId><E/></R>";
        assert_eq!(element(xml, "UploadId").as_deref(), Some("a&lt;b"));
        assert_eq!(element(xml, "E"), None);
        assert_eq!(element("<E>", "E"), None);
        assert_eq!(escaped("\"<&>"), "\"&lt;&amp;&gt;");
    }
}
