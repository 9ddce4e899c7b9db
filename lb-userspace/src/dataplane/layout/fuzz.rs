//! Type information of a pinned map, and an object that carries it.

use super::{Shape, btf::Btf, expected};

/// Types that are looked at.
const MOST_TYPES: u32 = 64;

/// Whatever the bytes are, they have layouts that can be told and compared, or an error says why
/// not.
pub(crate) fn layout(data: &[u8]) {
    match expected(data) {
        Ok(maps) => {
            for map in maps.values() {
                assert_eq!(map.differences(map), Vec::<String>::new());
            }
        }
        Err(error) => assert!(!error.to_string().is_empty(), "a reason is missing"),
    }
    let Ok(btf) = Btf::parse(data) else {
        return;
    };
    let mut former = Shape::Opaque;
    for id in 0..MOST_TYPES {
        // What is no struct, pointer or array has none of these.
        let _ = (btf.members(id), btf.pointee(id), btf.array_length(id));
        let Ok(shape) = btf.shape(id) else { continue };
        assert!(!shape.to_string().is_empty(), "{shape:?}");
        assert_eq!(shape.differences("key", &shape), Vec::<String>::new());
        let differences = shape.differences("key", &former);
        assert_eq!(differences.is_empty(), shape == former, "{differences:?}");
        former = shape;
    }
    let _ = btf.variables(".maps");
}
