//! The structure of a type: what its bytes mean, without its name.

use std::{collections::BTreeMap, fmt};

/// How many differing fields of one key or value are told one by one. A field that is added in
/// front moves all the others; nobody wants to read them all.
const TOLD: usize = 3;

/// What the bytes of a type mean.
///
/// Displayed as `{client: [u8; 4] @0, port: u16 @4} 6 bytes`: each field with its offset in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Shape {
    /// An integer, `bits` of it in use from bit `offset` on.
    Integer {
        /// Two's complement.
        signed: bool,
        /// Bytes that it occupies.
        bytes: u32,
        /// First bit in use: 0 but for old-style bit fields.
        offset: u8,
        /// Bits in use.
        bits: u8,
    },
    /// A truth value.
    Bool {
        /// Bytes that it occupies.
        bytes: u32,
    },
    /// A floating-point number.
    Float {
        /// Bytes that it occupies.
        bytes: u32,
    },
    /// An enumeration; what its numbers stand for is not compared.
    Enumeration {
        /// Its numbers can be negative.
        signed: bool,
        /// Bytes that it occupies.
        bytes: u32,
    },
    /// An address in memory; what it points to is not compared.
    Pointer,
    /// Several of one kind in a row.
    Array {
        /// One of them.
        element: Box<Self>,
        /// How many.
        length: u32,
    },
    /// Named fields.
    Struct {
        /// In the order of their declaration.
        fields: Vec<Field>,
        /// Bytes in all, padding included.
        bytes: u32,
    },
    /// Named fields that share their bytes.
    Union {
        /// In the order of their declaration.
        fields: Vec<Field>,
        /// Bytes in all.
        bytes: u32,
    },
    /// A type without a size: `void`, a function, a type that is only announced.
    Opaque,
}

/// A field of a struct or union.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name; empty for an anonymous struct or union.
    pub name: String,
    /// Where it begins, in bits from the start of its struct.
    pub bit_offset: u32,
    /// Bits that it has if it is a bit field, otherwise 0.
    pub bit_width: u8,
    /// What it is.
    pub shape: Shape,
}

impl Shape {
    /// Bytes that a value of this shape occupies; `None` for a type without a size.
    pub fn bytes(&self) -> Option<u64> {
        match self {
            Self::Integer { bytes, .. }
            | Self::Bool { bytes }
            | Self::Float { bytes }
            | Self::Enumeration { bytes, .. }
            | Self::Struct { bytes, .. }
            | Self::Union { bytes, .. } => Some(u64::from(*bytes)),
            Self::Pointer => Some(8),
            Self::Array { element, length } => {
                Some(element.bytes()?.saturating_mul(u64::from(*length)))
            }
            Self::Opaque => None,
        }
    }

    /// Says where `pinned` differs from `self`, the expected shape of `what`.
    pub(super) fn differences(&self, what: &str, pinned: &Self) -> Vec<String> {
        if self == pinned {
            return Vec::new();
        }
        let mut found = Vec::new();
        self.compare_fields(what, "", pinned, &mut found);
        if found.is_empty() {
            found.push(format!("{what} is {pinned}, expected {self}"));
        }
        if found.len() > TOLD {
            let rest = found.len() - TOLD;
            found.truncate(TOLD);
            found.push(format!("{rest} more fields of the {what} differ"));
        }
        found
    }

    /// Tells fields apart one by one, if both sides are structs whose fields have names. Finds
    /// nothing otherwise: then only the whole can be told.
    fn compare_fields(&self, what: &str, path: &str, pinned: &Self, found: &mut Vec<String>) {
        let (Some((expected, order)), Some((pinned, pinned_order))) =
            (self.by_name(), pinned.by_name())
        else {
            return;
        };
        for field in order {
            let name = format!("{path}{}", field.name);
            let Some(is) = pinned.get(field.name.as_str()) else {
                found.push(format!(
                    "{what} has no field {name:?}, expected {}",
                    Placed(field)
                ));
                continue;
            };
            if *is == field {
                continue;
            }
            let before = found.len();
            if (is.bit_offset, is.bit_width) == (field.bit_offset, field.bit_width) {
                let inner = format!("{name}.");
                field.shape.compare_fields(what, &inner, &is.shape, found);
            }
            if found.len() == before {
                let (is, field) = (Placed(is), Placed(field));
                found.push(format!("{what} field {name:?} is {is}, expected {field}"));
            }
        }
        for field in pinned_order {
            if !expected.contains_key(field.name.as_str()) {
                let name = format!("{path}{}", field.name);
                let is = Placed(field);
                found.push(format!("{what} field {name:?} is {is}, expected none"));
            }
        }
    }

    /// Returns the fields of a struct, by name and in order; `None` if there are no fields, or
    /// names do not tell them apart.
    fn by_name(&self) -> Option<(BTreeMap<&str, &Field>, &[Field])> {
        let Self::Struct { fields, .. } = self else {
            return None;
        };
        let names: BTreeMap<_, _> = fields.iter().map(|f| (f.name.as_str(), f)).collect();
        (names.len() == fields.len() && !names.contains_key("")).then_some((names, fields))
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer {
                signed,
                bytes,
                offset,
                bits,
            } => {
                let sign = if *signed { 'i' } else { 'u' };
                write!(f, "{sign}{bits}")?;
                if *offset == 0 && u32::from(*bits) == bytes.saturating_mul(8) {
                    return Ok(());
                }
                write!(f, " from bit {offset} of {bytes} bytes")
            }
            Self::Bool { bytes: 1 } => f.write_str("bool"),
            Self::Bool { bytes } => write!(f, "bool of {bytes} bytes"),
            Self::Float { bytes } => write!(f, "f{}", u64::from(*bytes) * 8),
            Self::Enumeration { signed, bytes } => {
                let sign = if *signed { 'i' } else { 'u' };
                write!(f, "enum {sign}{}", u64::from(*bytes) * 8)
            }
            Self::Pointer => f.write_str("pointer"),
            Self::Array { element, length } => write!(f, "[{element}; {length}]"),
            Self::Struct { fields, bytes } => write_fields(f, "", fields, *bytes),
            Self::Union { fields, bytes } => write_fields(f, "union ", fields, *bytes),
            Self::Opaque => f.write_str("opaque"),
        }
    }
}

fn write_fields(
    f: &mut fmt::Formatter<'_>,
    what: &str,
    fields: &[Field],
    bytes: u32,
) -> fmt::Result {
    write!(f, "{what}{{")?;
    for (index, field) in fields.iter().enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        write!(f, "{comma}{}: {} @", field.name, field.shape)?;
        write_place(f, field)?;
    }
    write!(f, "}} {bytes} bytes")
}

/// A field's shape and place in a sentence: `u32 at 48`.
struct Placed<'a>(&'a Field);

impl fmt::Display for Placed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at ", self.0.shape)?;
        write_place(f, self.0)
    }
}

/// Writes the offset in bytes; for a bit field also the bit and the width.
fn write_place(f: &mut fmt::Formatter<'_>, field: &Field) -> fmt::Result {
    let (byte, bit) = (field.bit_offset / 8, field.bit_offset % 8);
    write!(f, "{byte}")?;
    match field.bit_width {
        0 if bit == 0 => Ok(()),
        0 => write!(f, ".{bit}"),
        width => write!(f, ".{bit} ({width} bits)"),
    }
}
