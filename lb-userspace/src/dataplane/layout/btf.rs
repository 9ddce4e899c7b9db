//! A reader of BTF, the kernel's description of types (kernel documentation, `bpf/btf.rst`).
//!
//! BTF is a header, a list of types which name each other by number, and a block of
//! null-terminated names. Type 0 is `void`; the first in the list is type 1. Numbers are in the
//! byte order of the machine.
//!
//! Whatever the bytes are, reading ends with a result: every access is checked, nesting and size
//! of what is described are bounded.

use super::shape::{Field, Shape};

/// First two bytes of BTF.
const MAGIC: u16 = 0xeb9f;
/// Bytes of the header of version 1; a longer one is newer, and begins like it.
const HEADER: usize = 24;
/// How deep types may nest; the kernel's own limit is 32.
const MAX_DEPTH: u32 = 32;
/// How many types one description may consist of. A few kilobytes of BTF can describe a type
/// with billions of fields: structs of two structs of two structs.
const MAX_PARTS: u32 = 4096;
/// Bytes of the longest name; the kernel's own limit (`KSYM_NAME_LEN`) is 512.
const MAX_NAME: usize = 512;

/// Parsed type information.
pub(super) struct Btf<'a> {
    /// Type 1 stands at index 0.
    types: Vec<Type<'a>>,
    strings: &'a [u8],
}

/// A type, as far as layouts need it. Numbers of other types are not yet known to exist.
enum Type<'a> {
    Leaf(Shape),
    Array {
        element: u32,
        length: u32,
    },
    Composite {
        union: bool,
        /// Offsets of members carry the width of bit fields in their upper eight bits.
        bit_fields: bool,
        bytes: u32,
        members: &'a [[u8; 12]],
    },
    Pointer {
        to: u32,
    },
    /// Another name or qualifier for `of`.
    Alias {
        of: u32,
    },
    Variable {
        name: u32,
        of: u32,
    },
    Section {
        name: u32,
        variables: &'a [[u8; 12]],
    },
}

impl<'a> Btf<'a> {
    /// Reads the list of types.
    ///
    /// # Errors
    ///
    /// [`BtfError`] when `bytes` is not BTF of version 1 in this machine's byte order, or is cut
    /// short.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, BtfError> {
        let (&header, _) = bytes
            .split_first_chunk::<HEADER>()
            .ok_or(BtfError::CutShort)?;
        let magic = u16::from_ne_bytes([header[0], header[1]]);
        if magic != MAGIC {
            return Err(BtfError::Magic(magic));
        }
        if header[2] != 1 {
            return Err(BtfError::Version(header[2]));
        }
        let [
            _,
            length,
            type_offset,
            type_length,
            string_offset,
            string_length,
        ] = words(&header);
        let section = |offset: u32, size: u32| {
            let start = u64::from(length) + u64::from(offset);
            let range =
                usize::try_from(start).ok()?..usize::try_from(start + u64::from(size)).ok()?;
            bytes.get(range)
        };
        let mut rest = section(type_offset, type_length).ok_or(BtfError::CutShort)?;
        let strings = section(string_offset, string_length).ok_or(BtfError::CutShort)?;

        let mut types = Vec::new();
        while !rest.is_empty() {
            let (ty, after) = Type::parse(rest)?;
            types.push(ty);
            rest = after;
        }
        Ok(Self { types, strings })
    }

    /// Describes type `id`.
    ///
    /// # Errors
    ///
    /// [`BtfError`] when it refers to a type or name that does not exist, or is larger than
    /// anything sensible.
    pub(super) fn shape(&self, id: u32) -> Result<Shape, BtfError> {
        let mut parts = MAX_PARTS;
        self.shape_within(id, MAX_DEPTH, &mut parts)
    }

    /// Returns name and type of the variables in the section called `name`; `None` without such
    /// a section.
    ///
    /// # Errors
    ///
    /// [`BtfError`] when it refers to what does not exist or is not a variable.
    pub(super) fn variables(&self, name: &str) -> Result<Option<Vec<(&'a str, u32)>>, BtfError> {
        for ty in &self.types {
            let Type::Section {
                name: at,
                variables,
            } = ty
            else {
                continue;
            };
            if self.name(*at)? != name {
                continue;
            }
            return variables
                .iter()
                .map(|entry| {
                    let [id, ..] = words::<3>(entry);
                    match self.get(id)? {
                        Some(Type::Variable { name, of }) => Ok((self.name(*name)?, *of)),
                        _ => Err(BtfError::Unexpected {
                            id,
                            wanted: "a variable",
                        }),
                    }
                })
                .collect::<Result<_, _>>()
                .map(Some);
        }
        Ok(None)
    }

    /// Returns name and type of the fields of struct `id`.
    ///
    /// # Errors
    ///
    /// [`BtfError`] when `id` is not a struct, or the name of a field does not exist.
    pub(super) fn members(&self, id: u32) -> Result<Vec<(&'a str, u32)>, BtfError> {
        match self.resolve(id)? {
            Some(Type::Composite {
                union: false,
                members,
                ..
            }) => members
                .iter()
                .map(|member| {
                    let [name, ty, _] = words(member);
                    Ok((self.name(name)?, ty))
                })
                .collect(),
            _ => Err(BtfError::Unexpected {
                id,
                wanted: "a struct",
            }),
        }
    }

    /// Returns the type that pointer `id` points to.
    ///
    /// # Errors
    ///
    /// [`BtfError`] when `id` is not a pointer.
    pub(super) fn pointee(&self, id: u32) -> Result<u32, BtfError> {
        match self.resolve(id)? {
            Some(Type::Pointer { to }) => Ok(*to),
            _ => Err(BtfError::Unexpected {
                id,
                wanted: "a pointer",
            }),
        }
    }

    /// Returns how many elements array `id` has.
    ///
    /// # Errors
    ///
    /// [`BtfError`] when `id` is not an array.
    pub(super) fn array_length(&self, id: u32) -> Result<u32, BtfError> {
        match self.resolve(id)? {
            Some(Type::Array { length, .. }) => Ok(*length),
            _ => Err(BtfError::Unexpected {
                id,
                wanted: "an array",
            }),
        }
    }

    fn shape_within(&self, id: u32, depth: u32, parts: &mut u32) -> Result<Shape, BtfError> {
        let depth = depth.checked_sub(1).ok_or(BtfError::TooDeep(id))?;
        *parts = parts.checked_sub(1).ok_or(BtfError::TooLarge(id))?;
        Ok(match self.get(id)? {
            None | Some(Type::Variable { .. } | Type::Section { .. }) => Shape::Opaque,
            Some(Type::Leaf(shape)) => shape.clone(),
            Some(Type::Pointer { .. }) => Shape::Pointer,
            Some(Type::Alias { of }) => self.shape_within(*of, depth, parts)?,
            Some(Type::Array { element, length }) => Shape::Array {
                element: Box::new(self.shape_within(*element, depth, parts)?),
                length: *length,
            },
            Some(Type::Composite {
                union,
                bit_fields,
                bytes,
                members,
            }) => {
                let fields = members
                    .iter()
                    .map(|member| {
                        let [name, ty, place] = words(member);
                        let (bit_offset, bit_width) = if *bit_fields {
                            (place & 0x00ff_ffff, (place >> 24) as u8)
                        } else {
                            (place, 0)
                        };
                        Ok(Field {
                            name: self.name(name)?.to_owned(),
                            bit_offset,
                            bit_width,
                            shape: self.shape_within(ty, depth, parts)?,
                        })
                    })
                    .collect::<Result<_, _>>()?;
                let bytes = *bytes;
                if *union {
                    Shape::Union { fields, bytes }
                } else {
                    Shape::Struct { fields, bytes }
                }
            }
        })
    }

    /// Returns type `id` behind its aliases; `None` is `void`.
    fn resolve(&self, id: u32) -> Result<Option<&Type<'a>>, BtfError> {
        let mut current = id;
        for _ in 0..MAX_DEPTH {
            match self.get(current)? {
                Some(Type::Alias { of }) => current = *of,
                other => return Ok(other),
            }
        }
        Err(BtfError::TooDeep(id))
    }

    /// Returns type `id`; `None` is `void`.
    fn get(&self, id: u32) -> Result<Option<&Type<'a>>, BtfError> {
        let Some(index) = id.checked_sub(1) else {
            return Ok(None);
        };
        usize::try_from(index)
            .ok()
            .and_then(|index| self.types.get(index))
            .map(Some)
            .ok_or(BtfError::NoType(id))
    }

    /// Returns the name that begins at `offset` of the strings.
    fn name(&self, offset: u32) -> Result<&'a str, BtfError> {
        let name = || {
            let text = self.strings.get(usize::try_from(offset).ok()?..)?;
            let window = &text[..text.len().min(MAX_NAME)];
            let end = window.iter().position(|byte| *byte == 0)?;
            str::from_utf8(&window[..end]).ok()
        };
        name().ok_or(BtfError::NoName(offset))
    }
}

impl<'a> Type<'a> {
    /// Reads the type at the start of `bytes`; returns it with the bytes behind it.
    fn parse(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), BtfError> {
        let (head, rest) = bytes.split_first_chunk::<12>().ok_or(BtfError::CutShort)?;
        // The third word is a size in bytes or the number of another type, depending on the kind.
        let [name, info, size] = words(head);
        let of = size;
        let flag = info >> 31 == 1;
        let count = (info & 0xffff) as usize;
        let kind = (info >> 24 & 0x1f) as u8;
        Ok(match kind {
            kind::INT => {
                let (extra, rest) = take::<4>(rest, 1)?;
                let [word] = words(extra.as_flattened());
                let (encoding, offset, bits) = (word >> 24 & 0xf, word >> 16 & 0xff, word & 0xff);
                let shape = if encoding & INT_BOOL != 0 {
                    Shape::Bool { bytes: size }
                } else {
                    Shape::Integer {
                        signed: encoding & INT_SIGNED != 0,
                        bytes: size,
                        offset: offset as u8,
                        bits: bits as u8,
                    }
                };
                (Self::Leaf(shape), rest)
            }
            kind::POINTER => (Self::Pointer { to: of }, rest),
            kind::ARRAY => {
                let (extra, rest) = take::<12>(rest, 1)?;
                let [element, _index, length] = words(extra.as_flattened());
                (Self::Array { element, length }, rest)
            }
            kind::STRUCT | kind::UNION => {
                let (members, rest) = take::<12>(rest, count)?;
                let ty = Self::Composite {
                    union: kind == kind::UNION,
                    bit_fields: flag,
                    bytes: size,
                    members,
                };
                (ty, rest)
            }
            kind::ENUM | kind::ENUM64 => {
                let rest = if kind == kind::ENUM {
                    take::<8>(rest, count)?.1
                } else {
                    take::<12>(rest, count)?.1
                };
                let shape = Shape::Enumeration {
                    signed: flag,
                    bytes: size,
                };
                (Self::Leaf(shape), rest)
            }
            kind::FLOAT => (Self::Leaf(Shape::Float { bytes: size }), rest),
            kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                (Self::Alias { of }, rest)
            }
            kind::FORWARD | kind::FUNCTION => (Self::Leaf(Shape::Opaque), rest),
            kind::FUNCTION_PROTOTYPE => (Self::Leaf(Shape::Opaque), take::<8>(rest, count)?.1),
            kind::DECLARATION_TAG => (Self::Leaf(Shape::Opaque), take::<4>(rest, 1)?.1),
            kind::VARIABLE => (Self::Variable { name, of }, take::<4>(rest, 1)?.1),
            kind::SECTION => {
                let (variables, rest) = take::<12>(rest, count)?;
                (Self::Section { name, variables }, rest)
            }
            unknown => return Err(BtfError::UnknownKind(unknown)),
        })
    }
}

/// What is wrong with type information.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BtfError {
    /// It ends in the middle of something.
    #[error("it is cut short")]
    CutShort,
    /// It does not begin as BTF does on this machine.
    #[error("its magic number is {0:#06x}, expected 0xeb9f")]
    Magic(u16),
    /// It has a format that is not known.
    #[error("its format is version {0}, expected 1")]
    Version(u8),
    /// A type is of a kind that is not known, so that its end is not known either.
    #[error("it holds a type of kind {0}, which this version does not know")]
    UnknownKind(u8),
    /// The number of a type is none.
    #[error("it refers to type {0}, which does not exist")]
    NoType(u32),
    /// The offset of a name is none, or no name of sensible length stands there.
    #[error("it refers to a name at {0}, where there is none")]
    NoName(u32),
    /// A type is of the wrong kind.
    #[error("type {id} is not {wanted}")]
    Unexpected {
        /// Number of the type.
        id: u32,
        /// What it should be.
        wanted: &'static str,
    },
    /// A type nests too deeply, or contains itself.
    #[error("type {0} contains itself, or is nested more than 32 deep")]
    TooDeep(u32),
    /// A type consists of too many others.
    #[error("type {0} is part of one with more than 4096 parts")]
    TooLarge(u32),
}

const INT_SIGNED: u32 = 1 << 0;
const INT_BOOL: u32 = 1 << 2;

/// The kinds of types, by their numbers.
pub(super) mod kind {
    pub(in crate::dataplane::layout) const INT: u8 = 1;
    pub(in crate::dataplane::layout) const POINTER: u8 = 2;
    pub(in crate::dataplane::layout) const ARRAY: u8 = 3;
    pub(in crate::dataplane::layout) const STRUCT: u8 = 4;
    pub(in crate::dataplane::layout) const UNION: u8 = 5;
    pub(in crate::dataplane::layout) const ENUM: u8 = 6;
    pub(in crate::dataplane::layout) const FORWARD: u8 = 7;
    pub(in crate::dataplane::layout) const TYPEDEF: u8 = 8;
    pub(in crate::dataplane::layout) const VOLATILE: u8 = 9;
    pub(in crate::dataplane::layout) const CONST: u8 = 10;
    pub(in crate::dataplane::layout) const RESTRICT: u8 = 11;
    pub(in crate::dataplane::layout) const FUNCTION: u8 = 12;
    pub(in crate::dataplane::layout) const FUNCTION_PROTOTYPE: u8 = 13;
    pub(in crate::dataplane::layout) const VARIABLE: u8 = 14;
    pub(in crate::dataplane::layout) const SECTION: u8 = 15;
    pub(in crate::dataplane::layout) const FLOAT: u8 = 16;
    pub(in crate::dataplane::layout) const DECLARATION_TAG: u8 = 17;
    pub(in crate::dataplane::layout) const TYPE_TAG: u8 = 18;
    pub(in crate::dataplane::layout) const ENUM64: u8 = 19;
}

/// Takes `count` records of `SIZE` bytes from the start of `bytes`.
fn take<const SIZE: usize>(bytes: &[u8], count: usize) -> Result<(&[[u8; SIZE]], &[u8]), BtfError> {
    let (records, rest) = bytes
        .split_at_checked(SIZE * count)
        .ok_or(BtfError::CutShort)?;
    Ok((records.as_chunks().0, rest))
}

/// Returns the first `N` 32-bit words of `bytes`; those behind its end are 0.
fn words<const N: usize>(bytes: &[u8]) -> [u32; N] {
    let mut words = [0; N];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u32::from_ne_bytes(*bytes);
    }
    words
}
