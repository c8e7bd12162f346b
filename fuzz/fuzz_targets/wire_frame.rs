//! What a client or a server may send, frame by frame: nothing panics, a Bind that is written again says the same, and OIDs
//! in values that are replaced twice are what they were.

#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use tenantry_fuzz::error::PgError;
use tenantry_fuzz::wire::frontend::{Bind, Parse, Target, read_execute, read_query};
use tenantry_fuzz::wire::nested_oids::{Form, Meaning, replace_in_rows, replace_in_tuples, replace_in_value};
use tenantry_fuzz::wire::pgoutput::Message;
use tenantry_fuzz::wire::startup::{Startup, packet_len};
use tenantry_fuzz::wire::{frame, rows};

fuzz_target!(|data: &[u8]| {
    if let Ok(Some(len)) = packet_len(data)
        && let Some(packet) = data.get(..len)
    {
        let _ = Startup::read(packet);
    }
    let mut rest = Bytes::copy_from_slice(data);
    while let Ok(Some(header)) = frame::header(&rest) {
        assert!(header.len >= frame::HEADER_LEN);
        if frame::client_frame_limit(header.tag).is_some_and(|limit| header.len > limit) || rest.len() < header.len {
            break;
        }
        let payload = rest.split_to(header.len).slice(frame::HEADER_LEN..);
        read(header.tag, &payload);
    }
});

fn read(tag: u8, payload: &Bytes) {
    match tag {
        b'Q' => drop(read_query(payload)),
        b'P' => drop(Parse::read(payload)),
        b'B' => bind(payload),
        b'D' | b'C' => {
            let _ = Target::read(payload);
            let _ = rows::read_data_row(payload);
            rows::tag_rows(payload);
            rows::tag_command(payload);
        }
        b'E' | b'N' => {
            let _ = read_execute(payload);
            let error = PgError::from_body(payload);
            let _ = (error.code(), error.severity(), error.message().len());
        }
        b'T' => drop(rows::read_row_description(payload)),
        b't' => drop(rows::read_parameter_description(payload)),
        b'w' => drop(Message::decode(payload.clone())),
        b'd' => nested_oids(payload),
        _ => {}
    }
}

fn bind(payload: &Bytes) {
    let Ok(bind) = Bind::read(payload) else { return };
    let forms = vec![Form::Array; usize::from(bind.parameter_count())];
    let twice = bind.with_nested_oids(&forms, &mut other_oid).with_nested_oids(&forms, &mut other_oid);
    let mut out = BytesMut::new();
    twice.write(&bind.portal, &bind.statement, &mut out);
    let header = frame::header(&out).expect("its own frame").expect("whole");
    assert_eq!((header.tag, header.len), (b'B', out.len()));
    let again = Bind::read(&out.freeze().slice(frame::HEADER_LEN..)).expect("what was read can be written and read");
    assert_eq!((&bind.portal, &bind.statement), (&again.portal, &again.statement));
    assert_eq!(bind.parameter_count(), again.parameter_count());
    assert_eq!(bind.result_formats(), again.result_formats());
    for n in 0..bind.parameter_count() {
        match (bind.parameter(n), again.parameter(n)) {
            (Ok(one), Ok(other)) => assert_eq!(one, other),
            (one, other) => assert_eq!(one.is_err(), other.is_err()),
        }
    }
}

fn nested_oids(value: &[u8]) {
    let replaced_twice = |replace: &dyn Fn(&mut [u8])| {
        let mut changed = value.to_vec();
        replace(&mut changed);
        replace(&mut changed);
        assert_eq!(changed, value);
    };
    for form in [Form::Array, Form::Composite] {
        replaced_twice(&|value| replace_in_value(value, form, &mut other_oid));
        replaced_twice(&|value| replace_in_rows(value, &[form, form], &mut other_oid));
        replaced_twice(&|value| replace_in_tuples(value, &[form, form], &mut other_oid));
    }
}

/// Another one whose values have the same form, and the other way round.
fn other_oid(oid: u32) -> Meaning {
    let form = [Form::Plain, Form::Array, Form::Composite][(oid >> 1) as usize % 3];
    Meaning { oid: oid ^ 1, form }
}
