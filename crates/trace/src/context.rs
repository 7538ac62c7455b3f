use rand::Rng as _;

/// Where in a trace a caller is: the content of a `traceparent` header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace_id: [u8; 16],
    /// The caller's span.
    pub span_id: [u8; 8],
    /// The caller keeps its spans.
    pub sampled: bool,
}

impl TraceContext {
    /// Reads `00-<trace>-<span>-<flags>`; `None` if it is anything else, which stands for no context.
    /// Source: W3C Trace Context, section 3.2.
    pub fn parse(header: &str) -> Option<Self> {
        let mut parts = header.trim().split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let version = one_byte(version)?;
        // Later versions may have more parts, this one has not.
        if version == 0xff || (version == 0 && parts.next().is_some()) {
            return None;
        }
        let (mut trace_id, mut span_id) = ([0; 16], [0; 8]);
        lower_hex(trace, &mut trace_id)?;
        lower_hex(span, &mut span_id)?;
        let valid = trace_id != [0; 16] && span_id != [0; 8];
        valid.then_some(Self { trace_id, span_id, sampled: one_byte(flags)? & 1 == 1 })
    }
}

fn one_byte(text: &str) -> Option<u8> {
    let mut byte = [0];
    lower_hex(text, &mut byte)?;
    Some(byte[0])
}

fn lower_hex(text: &str, bytes: &mut [u8]) -> Option<()> {
    let lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
    (lower && hex::decode_to_slice(text, bytes).is_ok()).then_some(())
}

/// A new id of a trace or a span; never all zeros, which would mean none.
pub(crate) fn random_id<const N: usize>() -> [u8; N] {
    let mut id = [0; N];
    while id == [0; N] {
        rand::rng().fill(&mut id[..]);
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_are_known_by_their_header() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let context = TraceContext::parse(text).unwrap();
        assert_eq!(hex::encode(context.trace_id), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(hex::encode(context.span_id), "b7ad6b7169203331");
        assert!(context.sampled);
        assert!(
            TraceContext::parse("42-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00-more").is_some()
        );
    }

    #[test]
    fn what_is_no_header_is_no_context() {
        for bad in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-x1",
        ] {
            assert_eq!(TraceContext::parse(bad), None, "{bad:?}");
        }
    }
}
