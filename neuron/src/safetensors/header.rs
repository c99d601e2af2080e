//! The header of one file: eight bytes of length, then JSON that says where every tensor lies.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{ErrorKind, Read},
    path::Path,
};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, Visitor},
};

use super::{Dtype, MAX_DIMENSIONS, MAX_HEADER_BYTES, MAX_TENSORS, Tensor};
use crate::folder::{FolderError, Problem};

/// Bytes of the length at a file's start.
const LENGTH_BYTES: u64 = 8;
/// The one key that names no tensor.
const METADATA: &str = "__metadata__";

/// Reads and checks the header of a file, which is the `number`th of its model.
pub(super) fn open(
    folder: &Path,
    file: &str,
    number: usize,
) -> Result<BTreeMap<String, Tensor>, FolderError> {
    let opened = match File::open(folder.join(file)) {
        Err(e) if e.kind() == ErrorKind::NotFound => Err(Problem::Absent),
        opened => opened.map_err(|e| Problem::Io(e.to_string())),
    };
    let read = opened.and_then(|opened| {
        let len = opened.metadata().map_err(|e| Problem::Io(e.to_string()))?.len();
        read(opened, len, number)
    });
    read.map_err(|problem| problem.of(file))
}

/// From a file of `len` bytes.
pub(super) fn read(
    mut input: impl Read,
    len: u64,
    number: usize,
) -> Result<BTreeMap<String, Tensor>, Problem> {
    let mut length = [0; LENGTH_BYTES as usize];
    fill(&mut input, &mut length, len, "the length of its header")?;
    let header_len = u64::from_le_bytes(length);
    if header_len > MAX_HEADER_BYTES {
        let what = "the length of its header";
        return Err(Problem::TooLarge { what, value: header_len, max: MAX_HEADER_BYTES });
    }
    let data_start = LENGTH_BYTES + header_len;
    if data_start > len {
        return Err(Problem::Truncated { at: len, what: "its header" });
    }
    let mut json = vec![0; usize::try_from(header_len).unwrap_or(0)];
    fill(&mut input, &mut json, len, "its header")?;
    let Header(infos) = serde_json::from_slice(&json).map_err(|e| Problem::NotJson(e.to_string()))?;
    let tensors = infos
        .into_iter()
        .map(|(name, info)| Ok((name.clone(), info.check(name, data_start, len, number)?)))
        .collect::<Result<BTreeMap<String, Tensor>, Problem>>()?;
    let mut places: Vec<(u64, u64, &String)> =
        tensors.iter().map(|(name, tensor)| (tensor.start, tensor.len, name)).collect();
    places.sort_unstable();
    match places.windows(2).find(|two| two[0].0 + two[0].1 > two[1].0) {
        Some(two) => Err(Problem::Overlap { first: two[0].2.clone(), second: two[1].2.clone() }),
        None => Ok(tensors),
    }
}

fn fill(input: &mut impl Read, into: &mut [u8], len: u64, what: &'static str) -> Result<(), Problem> {
    input.read_exact(into).map_err(|e| match e.kind() {
        ErrorKind::UnexpectedEof => Problem::Truncated { at: len, what },
        _ => Problem::Io(e.to_string()),
    })
}

/// A tensor as the header has it.
#[derive(Deserialize)]
struct Info {
    dtype: String,
    shape: Vec<u64>,
    /// Start and end, bytes from the end of the header.
    data_offsets: (u64, u64),
}

impl Info {
    fn check(self, name: String, data_start: u64, file_len: u64, file: usize) -> Result<Tensor, Problem> {
        let Self { dtype, shape: dims, data_offsets: (start, end) } = self;
        let dtype = Dtype::by_name(&dtype).ok_or(Problem::UnknownType(dtype))?;
        let elements = dims.iter().try_fold(1u64, |all, dim| all.checked_mul(*dim));
        let needed = elements.filter(|_| dims.len() <= MAX_DIMENSIONS).and_then(|n| dtype.bytes(n));
        let Some(needed) = needed else { return Err(Problem::Shape { name, dims }) };
        let len = end.checked_sub(start).unwrap_or(u64::MAX);
        if len != needed {
            return Err(Problem::TensorBytes { name, bytes: len, needed });
        }
        match data_start.checked_add(end) {
            // The start lies before the end, so it fits as well.
            Some(end) if end <= file_len => Ok(Tensor { file, dtype, dims, start: data_start + start, len }),
            end => Err(Problem::TensorPastEnd { name, end: end.unwrap_or(u64::MAX), len: file_len }),
        }
    }
}

/// The tensors of a header; a name that comes twice is an error, where a plain map would keep the last.
struct Header(BTreeMap<String, Info>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor).map(Self)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = BTreeMap<String, Info>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut infos = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == METADATA {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let info = map.next_value()?;
            if infos.len() == MAX_TENSORS {
                return Err(A::Error::custom(format!("more than {MAX_TENSORS} tensors")));
            }
            if let Some(name) = infos.contains_key(&name).then_some(&name) {
                return Err(A::Error::custom(format!("the tensor {name} appears twice")));
            }
            infos.insert(name, info);
        }
        Ok(infos)
    }
}
