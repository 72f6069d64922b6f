//! The table of all built-in kinds: fields, types, list and patch facts. Generated, pointer-free, in .rodata.
//!
//! `table.rs` is made by `cargo xtask gen-schema` from `api/facts/schema.txt`. Its rows, all of u16:
//!
//! | array | row |
//! |---|---|
//! | DEFS, sorted by name | name, first field, fields, first embed, embeds, flags, union discriminator, union members |
//! | FIELDS, sorted by name in a definition | name, type, facts, protobuf number |
//! | EMBEDS | definition, protobuf number |
//! | TYPES | shape, argument |
//! | FACTS | flags, keys, merge key, enum, Go type |
//! | GVKS, sorted | group, version, kind, definition |
//! | LISTS | length, then that many strings |
//! | OFFSETS (u32) | where string n begins in POOL |

use crate::Gvk;
use std::cmp::Ordering;

#[rustfmt::skip]
mod table;

use table::{DEFS, EMBEDS, FACTS, FIELDS, GVKS, LISTS, OFFSETS, POOL, TYPES};

/// A definition of the table (`Pod`, `PodSpec`, ...), by its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Def(u16);

/// A field of a definition, by its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Field(u16);

/// A type, by its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Type(u16);

/// What a type is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Any JSON value.
    Any,
    /// Text.
    Str,
    /// Boolean.
    Bool,
    /// 32-bit number.
    Int32,
    /// 64-bit number.
    Int64,
    /// Floating point.
    Double,
    /// Base64 text.
    Bytes,
    /// Quantity: text (numbers are accepted).
    Quantity,
    /// RFC 3339 text, whole seconds.
    Time,
    /// RFC 3339 text, microseconds.
    MicroTime,
    /// Number or text.
    IntOrString,
    /// An object of any kind.
    Raw,
    /// A field set.
    FieldsV1,
    /// A Go duration as text.
    Duration,
    /// An object whose content is not described.
    Object,
    /// JSON of a CRD's schema: a schema or a list of schemas.
    SchemaOrArray,
    /// JSON of a CRD's schema: a schema or a boolean.
    SchemaOrBool,
    /// JSON of a CRD's schema: a schema or a list of strings.
    SchemaOrStrings,
    /// A definition.
    Def(Def),
    /// A list.
    List(Type),
    /// A map from strings.
    Map(Type),
}

/// How an unset field is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Omit {
    /// Left out when empty (zero, false, "", no items).
    Empty,
    /// Left out when absent; an empty value stays.
    Absent,
    /// Written with its zero value.
    Never,
    /// A struct that is left out when all of it is zero.
    Zero,
    /// Written as null when absent.
    Null,
}

/// x-kubernetes-list-type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListKind {
    /// Not said: atomic under apply.
    Unsaid,
    /// One owner.
    Atomic,
    /// Items are keys.
    Set,
    /// Items are objects with keys.
    Map,
}

fn string(i: u16) -> &'static str {
    let i = usize::from(i);
    match (OFFSETS.get(i), OFFSETS.get(i + 1)) {
        (Some(a), Some(b)) => &POOL[*a as usize..*b as usize],
        _ => "",
    }
}

fn list(i: u16) -> impl DoubleEndedIterator<Item = &'static str> + Clone {
    let i = usize::from(i);
    let len = usize::from(LISTS[i]);
    LISTS[i + 1..i + 1 + len].iter().map(|s| string(*s))
}

fn at(array: &[u16], stride: usize, row: usize, column: usize) -> u16 {
    array[row * stride + column]
}

/// Binary search over `rows` rows.
fn search(rows: usize, mut compare: impl FnMut(usize) -> Ordering) -> Option<usize> {
    let (mut low, mut high) = (0, rows);
    while low < high {
        let middle = low.midpoint(high);
        match compare(middle) {
            Ordering::Less => low = middle + 1,
            Ordering::Greater => high = middle,
            Ordering::Equal => return Some(middle),
        }
    }
    None
}

/// The definition that is the body of `gvk`.
pub fn find(gvk: &Gvk<'_>) -> Option<Def> {
    let row = search(GVKS.len() / 4, |i| {
        let have = (0..3).map(|c| string(at(&GVKS, 4, i, c)));
        have.cmp([gvk.group, gvk.version, gvk.kind])
    })?;
    Some(Def(at(&GVKS, 4, row, 3)))
}

/// The definition of this full name, `io.k8s.api.core.v1.PodSpec`.
pub fn named(name: &str) -> Option<Def> {
    let row = search(DEFS.len() / 8, |i| string(at(&DEFS, 8, i, 0)).cmp(name))?;
    u16::try_from(row).ok().map(Def)
}

/// All definitions, by name.
pub fn all() -> impl Iterator<Item = Def> {
    (0..(DEFS.len() / 8) as u16).map(Def)
}

/// All kinds with their definitions, sorted.
pub fn kinds() -> impl Iterator<Item = (Gvk<'static>, Def)> {
    (0..GVKS.len() / 4).map(|i| {
        let s = |c| string(at(&GVKS, 4, i, c));
        (Gvk::new(s(0), s(1), s(2)), Def(at(&GVKS, 4, i, 3)))
    })
}

impl Def {
    fn get(self, column: usize) -> u16 {
        at(&DEFS, 8, usize::from(self.0), column)
    }

    /// `io.k8s.api.core.v1.PodSpec`.
    pub fn name(self) -> &'static str {
        string(self.get(0))
    }

    /// `PodSpec`: the Go struct's name in error messages.
    pub fn short_name(self) -> &'static str {
        self.name().rsplit('.').next().unwrap_or("")
    }

    /// Its fields, by name; those of embedded messages included.
    pub fn fields(self) -> impl Iterator<Item = Field> + Clone {
        (self.get(1)..self.get(1) + self.get(2)).map(Field)
    }

    /// The field of this name.
    pub fn field(self, name: &str) -> Option<Field> {
        let first = self.get(1);
        let found = search(usize::from(self.get(2)), |i| {
            string(at(&FIELDS, 4, usize::from(first) + i, 0)).cmp(name)
        })?;
        Some(Field(first + found as u16))
    }

    /// Messages whose fields are inlined here in JSON and nested in protobuf, with their numbers.
    pub fn embeds(self) -> impl Iterator<Item = (Def, u16)> {
        let first = usize::from(self.get(3));
        (first..first + usize::from(self.get(4)))
            .map(|i| (Def(at(&EMBEDS, 2, i, 0)), at(&EMBEDS, 2, i, 1)))
    }

    /// x-kubernetes-map-type atomic: one owner under server-side apply.
    pub fn is_atomic(self) -> bool {
        self.get(5) & 1 != 0
    }

    /// Discriminator (may be empty) and members, when the definition is a union. Members are JSON field names.
    pub fn union(self) -> Option<(&'static str, impl Iterator<Item = &'static str>)> {
        (self.get(5) & 4 != 0).then(|| (string(self.get(6)), list(self.get(7))))
    }

    /// The kinds that it is the body of.
    pub fn gvks(self) -> impl Iterator<Item = Gvk<'static>> {
        kinds().filter(move |(_, d)| *d == self).map(|(g, _)| g)
    }
}

impl Field {
    fn get(self, column: usize) -> u16 {
        at(&FIELDS, 4, usize::from(self.0), column)
    }

    fn facts(self, column: usize) -> u16 {
        at(&FACTS, 5, usize::from(self.get(2)), column)
    }

    /// JSON name.
    pub fn name(self) -> &'static str {
        string(self.get(0))
    }

    /// Its type.
    pub fn ty(self) -> Type {
        Type(self.get(1))
    }

    /// [`Type::shape`] of its type.
    pub fn shape(self) -> Shape {
        self.ty().shape()
    }

    /// Protobuf field number; 0 when the field travels inside an embedded message or not at all.
    pub fn number(self) -> u16 {
        self.get(3)
    }

    /// The field is required.
    pub fn required(self) -> bool {
        self.facts(0) & 1 != 0
    }

    /// How it is written when unset.
    pub fn omit(self) -> Omit {
        match self.facts(0) >> 1 & 7 {
            1 => Omit::Absent,
            2 => Omit::Never,
            3 => Omit::Zero,
            4 => Omit::Null,
            _ => Omit::Empty,
        }
    }

    /// List type.
    pub fn list_kind(self) -> ListKind {
        match self.facts(0) >> 4 & 3 {
            1 => ListKind::Atomic,
            2 => ListKind::Set,
            3 => ListKind::Map,
            _ => ListKind::Unsaid,
        }
    }

    /// Keys of a list of type map.
    pub fn list_keys(self) -> impl DoubleEndedIterator<Item = &'static str> + Clone {
        list(self.facts(1))
    }

    /// Strategic merge patch: merge lists.
    pub fn patch_merge(self) -> bool {
        self.facts(0) & 1 << 6 != 0
    }

    /// Strategic merge patch: `$retainKeys` is understood.
    pub fn patch_retain_keys(self) -> bool {
        self.facts(0) & 1 << 7 != 0
    }

    /// Strategic merge patch: replace whole.
    pub fn patch_replace(self) -> bool {
        self.facts(0) & 1 << 8 != 0
    }

    /// Strategic merge patch: the key to merge by; empty when there is none.
    pub fn merge_key(self) -> &'static str {
        string(self.facts(2))
    }

    /// Map type atomic: one owner under server-side apply.
    pub fn is_atomic_map(self) -> bool {
        self.facts(0) & 1 << 9 != 0
    }

    /// Map type granular, although the definition is atomic.
    pub fn is_granular_map(self) -> bool {
        self.facts(0) & 1 << 10 != 0
    }

    /// Values allowed; empty when not said.
    pub fn enumeration(self) -> impl Iterator<Item = &'static str> {
        list(self.facts(3))
    }

    /// The type's name in Go's error messages: `[]v1.Container`, `v1.PullPolicy`, `int32`.
    pub fn go_type(self) -> String {
        match string(self.facts(4)) {
            "" => self.ty().go_type(),
            named => named.to_owned(),
        }
    }
}

impl Type {
    /// What it is.
    pub fn shape(self) -> Shape {
        let row = usize::from(self.0);
        let argument = at(&TYPES, 2, row, 1);
        match at(&TYPES, 2, row, 0) {
            1 => Shape::Str,
            2 => Shape::Bool,
            3 => Shape::Int32,
            4 => Shape::Int64,
            5 => Shape::Double,
            6 => Shape::Bytes,
            7 => Shape::Quantity,
            8 => Shape::Time,
            9 => Shape::MicroTime,
            10 => Shape::IntOrString,
            11 => Shape::Raw,
            12 => Shape::FieldsV1,
            13 => Shape::Duration,
            14 => Shape::Object,
            15 => Shape::SchemaOrArray,
            16 => Shape::SchemaOrBool,
            17 => Shape::SchemaOrStrings,
            20 => Shape::Def(Def(argument)),
            21 => Shape::List(Type(argument)),
            22 => Shape::Map(Type(argument)),
            _ => Shape::Any,
        }
    }

    /// Its name in Go's error messages.
    pub fn go_type(self) -> String {
        let fixed = match self.shape() {
            Shape::Str => "string",
            Shape::Bool => "bool",
            Shape::Int32 => "int32",
            Shape::Int64 => "int64",
            Shape::Double => "float64",
            Shape::Bytes => "[]uint8",
            Shape::Quantity => "resource.Quantity",
            Shape::Time => "v1.Time",
            Shape::MicroTime => "v1.MicroTime",
            Shape::IntOrString => "intstr.IntOrString",
            Shape::Raw => "runtime.RawExtension",
            Shape::FieldsV1 => "v1.FieldsV1",
            Shape::Duration => "v1.Duration",
            Shape::Any => "v1.JSON",
            Shape::Object => "map[string]interface {}",
            Shape::SchemaOrArray => "v1.JSONSchemaPropsOrArray",
            Shape::SchemaOrBool => "v1.JSONSchemaPropsOrBool",
            Shape::SchemaOrStrings => "v1.JSONSchemaPropsOrStringArray",
            Shape::Def(d) => {
                let mut parts = d.name().rsplit('.');
                let (last, package) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
                return format!("{package}.{last}");
            }
            Shape::List(t) => return format!("[]{}", t.go_type()),
            Shape::Map(t) => return format!("map[string]{}", t.go_type()),
        };
        fixed.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod_spec() -> Def {
        named("io.k8s.api.core.v1.PodSpec").unwrap()
    }

    #[test]
    fn finds_kinds_and_fields() {
        let deployment = find(&Gvk::new("apps", "v1", "Deployment")).unwrap();
        assert_eq!(deployment.name(), "io.k8s.api.apps.v1.Deployment");
        assert_eq!(find(&Gvk::new("", "v1", "Deployment")), None);
        let containers = pod_spec().field("containers").unwrap();
        assert_eq!(containers.go_type(), "[]v1.Container");
        assert!(containers.required() && containers.patch_merge());
        assert_eq!(containers.merge_key(), "name");
        assert_eq!(containers.list_kind(), ListKind::Map);
        assert_eq!(containers.list_keys().collect::<Vec<_>>(), ["name"]);
        assert_eq!(containers.number(), 2);
        assert_eq!(pod_spec().field("nope"), None);
    }

    #[test]
    fn every_row_reads() {
        let mut fields = 0;
        for d in all() {
            assert_eq!(named(d.name()), Some(d));
            for f in d.fields() {
                assert_eq!(d.field(f.name()), Some(f), "{} {}", d.name(), f.name());
                assert!(!f.go_type().is_empty());
                if f.list_kind() == ListKind::Map {
                    assert_ne!(f.list_keys().count(), 0, "{} {}", d.name(), f.name());
                }
                fields += 1;
            }
        }
        assert!(fields > 2500, "{fields}");
        for (gvk, d) in kinds() {
            assert_eq!(find(&gvk), Some(d));
        }
    }

    #[test]
    fn unions_and_embeds() {
        let s = named("io.k8s.api.core.v1.SeccompProfile").unwrap();
        let (discriminator, members) = s.union().unwrap();
        assert_eq!(
            (discriminator, members.collect::<Vec<_>>()),
            ("type", vec!["localhostProfile"])
        );
        let probe = named("io.k8s.api.core.v1.Probe").unwrap();
        let (handler, number) = probe.embeds().next().unwrap();
        assert_eq!((handler.short_name(), number), ("ProbeHandler", 1));
        assert!(handler.field("exec").unwrap().number() > 0);
    }
}
