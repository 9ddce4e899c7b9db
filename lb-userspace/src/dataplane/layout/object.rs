//! What the maps of the kernel object are, from its type information.
//!
//! A map is a variable in section `.maps`, a struct of pointers that nobody ever follows. `key`
//! and `value` point to the types; a number, such as `max_entries`, is the length of the array
//! pointed to. The convention is libbpf's (`libbpf.c`, `parse_btf_map_def`), and loaders read
//! nothing else.

use std::collections::BTreeMap;

use object::{File, Object as _, ObjectSection as _};

use super::{
    LayoutError, MapLayout,
    btf::{Btf, BtfError},
};

/// See [`super::expected`].
pub(super) fn maps(object: &[u8]) -> Result<BTreeMap<String, MapLayout>, LayoutError> {
    let file = File::parse(object).map_err(LayoutError::Elf)?;
    let section = file
        .section_by_name(".BTF")
        .ok_or(LayoutError::NoSection(".BTF"))?;
    let types = section.data().map_err(LayoutError::Elf)?;
    let damaged = |source| LayoutError::Types {
        of: "the kernel object".to_owned(),
        source,
    };
    let btf = Btf::parse(types).map_err(damaged)?;
    btf.variables(".maps")
        .map_err(damaged)?
        .ok_or(LayoutError::NoSection(".maps"))?
        .into_iter()
        .map(|(name, definition)| Ok((name.to_owned(), map(&btf, name, definition)?)))
        .collect()
}

/// Reads one definition. Members that the layout does not depend on are passed over.
fn map(btf: &Btf<'_>, name: &str, definition: u32) -> Result<MapLayout, LayoutError> {
    let unusable = |member| {
        move |_: BtfError| LayoutError::Definition {
            map: name.to_owned(),
            member,
        }
    };
    let number = |member, id| {
        btf.pointee(id)
            .and_then(|array| btf.array_length(array))
            .map_err(unusable(member))
    };
    let shape = |member, id| {
        btf.pointee(id)
            .and_then(|ty| btf.shape(ty))
            .map_err(unusable(member))
    };

    let (mut kind, mut max_entries, mut flags) = (None, 0, 0);
    let (mut key_size, mut value_size) = (None, None);
    let (mut key, mut value) = (None, None);
    for (member, id) in btf.members(definition).map_err(unusable("struct"))? {
        match member {
            "type" => kind = Some(number("type", id)?),
            "key" => key = Some(shape("key", id)?),
            "key_size" => key_size = Some(number("key_size", id)?),
            "value" => value = Some(shape("value", id)?),
            "value_size" => value_size = Some(number("value_size", id)?),
            "max_entries" => max_entries = number("max_entries", id)?,
            "map_flags" => flags = number("map_flags", id)?,
            _ => {}
        }
    }
    let lacks = |member| LayoutError::Definition {
        map: name.to_owned(),
        member,
    };
    let size = |given: Option<u32>, shape: &Option<super::Shape>| {
        let of_type = || u32::try_from(shape.as_ref()?.bytes()?).ok();
        given.or_else(of_type)
    };
    Ok(MapLayout {
        kind: kind.ok_or_else(|| lacks("type"))?,
        key_size: size(key_size, &key).ok_or_else(|| lacks("key"))?,
        value_size: size(value_size, &value).ok_or_else(|| lacks("value"))?,
        max_entries,
        flags,
        key,
        value,
    })
}
