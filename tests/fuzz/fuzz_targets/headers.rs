//! Field lists where nginx keeps them: whatever guests set, add and remove, the lines are those of
//! a plain list, framing stays nginx's, and slots and derived fields agree with the lines. What a
//! failed call did is undone without a trace.
#![no_main]

use arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use ngx_http_wasm_handler_fuzz::{name, value};
use ngx_http_wasm_handler_module::abi::FieldKind;
use ngx_http_wasm_handler_module::fuzzing::{Line, Live, Upstream};
use ngx_http_wasm_handler_module::host::policy::{
    belongs_before_body, frames_request, frames_response, is_single,
};

fuzz_target!(|data: &[u8]| {
    let _ = run(&mut Unstructured::new(data));
});

fn any(names: &[&str], name: &[u8]) -> bool {
    names.iter().any(|other| name.eq_ignore_ascii_case(other.as_bytes()))
}

/// What the three lists should be.
#[derive(Clone, Default)]
struct Model {
    request: Vec<Line>,
    /// What is shown first, in this order, if there is any.
    content_type: Option<Vec<u8>>,
    content_length: Option<Vec<u8>>,
    last_modified: bool,
    response: Vec<Line>,
    trailers: Vec<Line>,
}

fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let mut live = Live::default();
    let mut model = Model::default();
    for _ in 0..u.int_in_range(0..=10)? {
        let (name, value) = (name(u)?, value(u)?);
        // nginx refuses a request that has two of these.
        let one = any(&["host", "content-length", "transfer-encoding", "authorization"], &name);
        if !(one && model.request.iter().any(|(other, _)| name.eq_ignore_ascii_case(other))) {
            live.from_client(&name, &value);
            model.request.push((name, value));
        }
    }
    let mut early = Vec::new();
    for _ in 0..u.int_in_range(0..=4)? {
        early.push((name(u)?, value(u)?));
    }
    response(u, &mut live, &mut model, &early)?;
    check(&live, &model);
    while !u.is_empty() {
        if u.ratio(1, 8)? {
            let mut failed = Ok(());
            let mut scratch = model.clone();
            live.undone(|live| {
                failed = (0..4).try_for_each(|_| change(u, live, &mut scratch));
            });
            failed?;
            // A type without text is none, for nginx; it is read anew here.
            model.content_type = model.content_type.filter(|text| !text.is_empty());
        } else {
            change(u, &mut live, &mut model)?;
        }
        check(&live, &model);
    }
    Ok(())
}

fn response(
    u: &mut Unstructured<'_>,
    live: &mut Live,
    model: &mut Model,
    early: &[Line],
) -> Result<()> {
    const TYPES: [&str; 4] = ["", "text/html", "text/html; charset=x", "a/b"];
    let upstream = Upstream {
        content_type: u.choose(&TYPES)?.as_bytes().into(),
        charset: u.choose(&["", "utf-8"])?.as_bytes().into(),
        content_length: u.arbitrary()?,
        last_modified: u.arbitrary()?,
    };
    let mut lines: Vec<Line> = Vec::new();
    for _ in 0..u.int_in_range(0..=8)? {
        let (name, value) = (name(u)?, value(u)?);
        let outside = any(&["content-type", "content-length", "last-modified"], &name);
        let second =
            is_single(&name) && lines.iter().any(|(other, _)| name.eq_ignore_ascii_case(other));
        if !outside && !second {
            lines.push((name, value));
        }
    }
    live.from_upstream(&upstream, &lines);
    live.merge(early);

    model.content_type = (!upstream.content_type.is_empty()).then(|| {
        let mut text = upstream.content_type.clone();
        // The bench sets the length as nginx does for a type from its table: all of it.
        if !upstream.charset.is_empty() {
            text.extend_from_slice(b"; charset=");
            text.extend_from_slice(&upstream.charset);
        }
        text
    });
    model.content_length = upstream.content_length.map(|len| len.to_string().into_bytes());
    model.last_modified = upstream.last_modified.is_some();
    // What the guest set early comes first, unless there is to be one and the handler has it. Of
    // several that the guest set itself the last counts.
    let mut first = Vec::new();
    for (at, (name, value)) in early.iter().enumerate() {
        let taken = match name.to_ascii_lowercase().as_slice() {
            b"content-type" => model.content_type.is_some() && !upstream.content_type.is_empty(),
            b"last-modified" => model.last_modified,
            _ => lines.iter().any(|(other, _)| name.eq_ignore_ascii_case(other)),
        };
        let one = is_single(name);
        let again = || early[at + 1..].iter().any(|(other, _)| name.eq_ignore_ascii_case(other));
        if frames_response(name) || any(&["content-length"], name) || one && (taken || again()) {
            continue;
        }
        if any(&["content-type"], name) {
            model.content_type = (!value.is_empty()).then(|| value.clone());
        } else {
            first.push((name.clone(), value.clone()));
        }
    }
    first.extend(lines);
    model.response = first;
    Ok(())
}

/// One call of a guest, on nginx's list and on the model.
fn change(u: &mut Unstructured<'_>, live: &mut Live, model: &mut Model) -> Result<()> {
    let (name, value) = (name(u)?, value(u)?);
    let function = u.int_in_range(0..=2)?;
    let kind =
        *u.choose(&[FieldKind::Request, FieldKind::Response, FieldKind::ResponseTrailers])?;
    match function {
        0 => live.set(kind, &name, &value),
        1 => live.add(kind, &name, &value),
        _ => live.remove(kind, &name),
    }
    match kind {
        FieldKind::Request => change_request(model, function, name, value),
        FieldKind::Response => change_response(model, function, name, value),
        _ => {
            let forbidden = frames_response(&name) || belongs_before_body(&name);
            if function != 1 {
                model.trailers.retain(|(other, _)| !name.eq_ignore_ascii_case(other));
            }
            if function != 2 && !forbidden {
                model.trailers.push((name, value));
            }
        }
    }
    Ok(())
}

fn change_request(model: &mut Model, function: u8, name: Vec<u8>, value: Vec<u8>) {
    let one = any(&["host", "authorization"], &name);
    let lines = &mut model.request;
    let same = |(other, _): &Line| name.eq_ignore_ascii_case(other);
    match function {
        _ if frames_request(&name) => {}
        2 if any(&["host"], &name) => {}
        2 => lines.retain(|line| !same(line)),
        1 if !one => lines.push((name, value)),
        _ => match lines.iter().filter(|line| same(line)).count() {
            1 => {
                let at = lines.iter().position(same).expect("one");
                lines[at] = (name, value);
            }
            _ => {
                lines.retain(|line| !same(line));
                lines.push((name, value));
            }
        },
    }
}

fn change_response(model: &mut Model, function: u8, name: Vec<u8>, value: Vec<u8>) {
    if frames_response(&name) || any(&["content-length"], &name) {
        return;
    }
    if function != 1 || is_single(&name) {
        model.response.retain(|(other, _)| !name.eq_ignore_ascii_case(other));
        if any(&["last-modified"], &name) {
            model.last_modified = false;
        }
        if any(&["content-type"], &name) {
            model.content_type = None;
        }
    }
    if function == 2 {
    } else if any(&["content-type"], &name) {
        model.content_type = Some(value);
    } else {
        model.response.push((name, value));
    }
}

fn check(live: &Live, model: &Model) {
    live.check();
    assert_eq!(text(&live.lines(FieldKind::Request)), text(&model.request));
    assert_eq!(text(&live.lines(FieldKind::ResponseTrailers)), text(&model.trailers));

    let shown = live.lines(FieldKind::Response);
    let mut rest = &shown[..];
    let mut outside = |name: &[u8], present: bool| {
        if !present {
            return None;
        }
        let ((first, value), others) = rest.split_first().expect("a line outside the list");
        assert_eq!(first, name);
        rest = others;
        Some(value)
    };
    assert_eq!(outside(b"content-type", model.content_type.is_some()), model.content_type.as_ref());
    let length = outside(b"content-length", model.content_length.is_some());
    assert_eq!(length, model.content_length.as_ref());
    outside(b"last-modified", model.last_modified);
    assert_eq!(text(rest), text(&model.response));

    // What is shown is what goes out; a type without text is none.
    let no_type = |(name, value): &&Line| name != b"content-type" || !value.is_empty();
    let shown: Vec<Line> = shown.iter().filter(no_type).cloned().collect();
    assert_eq!(text(&live.sent()), text(&shown));

    for (name, value) in shown.iter().chain(&model.request).chain(&model.trailers) {
        assert!(!name.iter().chain(value).any(|byte| matches!(byte, b'\r' | b'\n' | 0)));
    }
}

fn text(lines: &[Line]) -> Vec<String> {
    let line = |(name, value): &Line| format!("{}: {}", name.escape_ascii(), value.escape_ascii());
    lines.iter().map(line).collect()
}
