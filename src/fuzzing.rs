//! What others write, given to the parsers that read it: one function for each target of `fuzz/`.
//!
//! Each takes any bytes and panics where a promise is broken; what is promised stands at the parsers'
//! own harnesses (`fuzzing` in [`http`](crate::http), [`oidc`](crate::oidc),
//! [`providers`](crate::providers) and [`sweep`](crate::sweep)). libFuzzer looks for such bytes; the
//! test below gives each target what was found once. None of this is part of the program.
//!
//! Inputs are text where their parser's are: a line that says what is asked, headers, a body.

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::runtime::{Builder, Runtime};

pub use crate::http::fuzzing::{
    callback_body, cursor, github_webhook, request_text, webhook_signature,
};
pub use crate::oidc::fuzzing::job_token;
pub use crate::providers::fuzzing::{github_answers, issuer_answers};
pub use crate::sweep::fuzzing::{hetzner_answers, tailscale_answers};

/// The first line and what comes after it.
pub(crate) fn first_line(input: &[u8]) -> (&str, &[u8]) {
    let end = input.iter().position(|byte| *byte == b'\n');
    let (line, rest) = match end {
        Some(end) => (&input[..end], &input[end + 1..]),
        None => (input, &[][..]),
    };
    (str::from_utf8(line).unwrap_or_default(), rest)
}

/// Headers up to an empty line, and the body after it. A header that HTTP has no room for is left out.
pub(crate) fn headers_and_body(mut input: &[u8]) -> (HeaderMap, &[u8]) {
    let mut headers = HeaderMap::new();
    while !input.is_empty() {
        let end = input.iter().position(|byte| *byte == b'\n');
        let line = &input[..end.unwrap_or(input.len())];
        input = end.map_or(&[][..], |end| &input[end + 1..]);
        if line.is_empty() {
            break;
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    (headers, input)
}

/// Runs what never waits for anybody.
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: Runtime = Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime without I/O needs nothing");
    }
    RUNTIME.with(|runtime| runtime.block_on(work))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    type Target = (&'static str, fn(&[u8]));

    const TARGETS: [Target; 10] = [
        ("callback_body", super::callback_body),
        ("cursor", super::cursor),
        ("github_answers", super::github_answers),
        ("github_webhook", super::github_webhook),
        ("hetzner_answers", super::hetzner_answers),
        ("issuer_answers", super::issuer_answers),
        ("job_token", super::job_token),
        ("request_text", super::request_text),
        ("tailscale_answers", super::tailscale_answers),
        ("webhook_signature", super::webhook_signature),
    ];

    fn names_in(folder: &Path) -> BTreeSet<String> {
        let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn every_target_withstands_its_corpus() {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
        let targets = BTreeSet::from(TARGETS.map(|(name, _)| name.to_owned()));
        assert_eq!(names_in(&fuzz.join("corpus")), targets);
        let built = targets.iter().map(|name| format!("{name}.rs")).collect();
        assert_eq!(names_in(&fuzz.join("fuzz_targets")), built);

        for (target, run) in TARGETS {
            let folder = fuzz.join("corpus").join(target);
            let names = names_in(&folder);
            assert!(!names.is_empty(), "{target} has no corpus");
            for name in names {
                eprintln!("{target}/{name}");
                run(&fs::read(folder.join(name)).unwrap());
            }
        }
    }
}
