//! What is said about layouts that differ.

use super::forge::{FlowTable, Forge, elf};
use crate::dataplane::layout::{MapLayout, Shape, btf::Btf, expected};

/// The layout of a table whose values have these fields: name, bytes, offset.
fn flows(value_size: u32, fields: &[(&str, u32, u32)]) -> MapLayout {
    let table = FlowTable::new(value_size, fields);
    let mut maps = expected(&elf(&table.types)).expect("a sound object");
    maps.remove("flows").expect("its only map")
}

#[test]
fn the_same_layout_has_no_differences() {
    let ours = flows(8, &[("record", 4, 0), ("generation", 4, 4)]);
    assert_eq!(ours.differences(&ours.clone()), [""; 0]);
}

#[test]
fn every_number_is_compared() {
    let ours = flows(8, &[("record", 4, 0), ("generation", 4, 4)]);
    let pinned = MapLayout {
        kind: 9,
        key_size: 40,
        value_size: 4,
        max_entries: 32,
        flags: 0x401,
        ..ours.clone()
    };
    assert_eq!(
        ours.differences(&pinned),
        [
            "type is lru_hash, expected hash",
            "key size is 40, expected 8",
            "value size is 4, expected 8",
            "capacity is 32, expected 64",
            "flags are 0x401, expected 0x0",
        ]
    );
    let unheard_of = MapLayout {
        kind: 900,
        ..ours.clone()
    };
    assert_eq!(
        ours.differences(&unheard_of),
        ["type is number 900, expected hash"]
    );
}

#[test]
fn type_information_must_be_there() {
    let ours = flows(4, &[("record", 4, 0)]);
    let bare = MapLayout {
        key: None,
        value: None,
        ..ours.clone()
    };
    assert_eq!(
        ours.differences(&bare),
        [
            "key has no type information",
            "value has no type information"
        ]
    );
    assert_eq!(
        bare.differences(&ours)[1],
        "value is {record: u32 @0} 4 bytes, expected without type"
    );
}

#[test]
fn a_moved_field_is_named() {
    let ours = flows(16, &[("record", 4, 0), ("last_seen", 8, 8)]);
    let pinned = flows(16, &[("record", 4, 0), ("last_seen", 4, 4)]);
    assert_eq!(
        ours.differences(&pinned),
        [r#"value field "last_seen" is u32 at 4, expected u64 at 8"#]
    );
}

#[test]
fn fields_that_came_and_went_are_named() {
    let ours = flows(8, &[("record", 4, 0), ("generation", 4, 4)]);
    let pinned = flows(8, &[("record", 4, 0), ("colour", 4, 4)]);
    assert_eq!(
        ours.differences(&pinned),
        [
            r#"value has no field "generation", expected u32 at 4"#,
            r#"value field "colour" is u32 at 4, expected none"#,
        ]
    );
}

#[test]
fn many_fields_are_summed_up() {
    let ours = flows(
        24,
        &[
            ("new", 4, 0),
            ("a", 4, 4),
            ("b", 4, 8),
            ("c", 4, 12),
            ("d", 4, 16),
        ],
    );
    let pinned = flows(24, &[("a", 4, 0), ("b", 4, 4), ("c", 4, 8), ("d", 4, 12)]);
    assert_eq!(
        ours.differences(&pinned),
        [
            r#"value has no field "new", expected u32 at 0"#,
            r#"value field "a" is u32 at 0, expected u32 at 4"#,
            r#"value field "b" is u32 at 4, expected u32 at 8"#,
            "2 more fields of the value differ",
        ]
    );
}

/// The shape of a struct around a struct with one field: its name and bytes.
fn nested(field: &str, bytes: u32) -> Shape {
    let mut forge = Forge::new();
    let number = forge.unsigned("number", bytes);
    let inner = forge.structure("Inner", 8, &[(field, number, 0)]);
    let outer = forge.structure("Outer", 8, &[("tags", inner, 0)]);
    shape(&forge, outer)
}

fn shape(forge: &Forge, id: u32) -> Shape {
    let bytes = forge.finish();
    Btf::parse(&bytes)
        .and_then(|btf| btf.shape(id))
        .expect("a sound type")
}

#[test]
fn a_field_within_a_field_is_named_by_its_path() {
    assert_eq!(
        nested("control", 4).differences("value", &nested("control", 2)),
        [r#"value field "tags.control" is u16 at 0, expected u32 at 0"#]
    );
}

#[test]
fn types_without_fields_are_told_whole() {
    let mut forge = Forge::new();
    let byte = forge.unsigned("u8", 1);
    let (four, sixteen) = (forge.array(byte, 4), forge.array(byte, 16));
    assert_eq!(
        shape(&forge, sixteen).differences("key", &shape(&forge, four)),
        ["key is [u8; 4], expected [u8; 16]"]
    );
}

#[test]
fn structs_with_nameless_fields_are_told_whole() {
    let anonymous = |bytes| {
        let mut forge = Forge::new();
        let number = forge.unsigned("number", bytes);
        let id = forge.structure("S", 8, &[("", number, 0)]);
        shape(&forge, id)
    };
    assert_eq!(
        anonymous(8).differences("value", &anonymous(4)),
        ["value is {: u32 @0} 8 bytes, expected {: u64 @0} 8 bytes"]
    );
}

#[test]
fn padding_at_the_end_is_a_difference() {
    let ours = flows(16, &[("record", 4, 0)]);
    let pinned = flows(8, &[("record", 4, 0)]);
    assert_eq!(
        ours.differences(&pinned),
        [
            "value size is 8, expected 16",
            "value is {record: u32 @0} 8 bytes, expected {record: u32 @0} 16 bytes",
        ]
    );
}
