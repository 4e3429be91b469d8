//! The form of what a reader and whoever asks it say to each other: messages of a length and that many bytes, a file's
//! descriptor with those that open one. Knows no question. Whatever is received is bounded and may be hostile.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::ops::Deref;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use bytemuck::{NoUninit, Pod};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::de::{DeserializeOwned, Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest message: the chunks of tens of millions of frames, or the largest qmap, which takes a fifth of it.
const MOST_BYTES: u64 = 1 << 30;

/// So much room is made for a message at a time: what its length announces is not believed.
const STEP: usize = 1 << 20;

/// Bytes of a message's length.
const LENGTH: usize = 8;

/// Sends a message.
///
/// # Errors
/// The system's; a message that has no form is a fault of this program.
pub(super) fn send(socket: &UnixStream, message: &impl Serialize) -> io::Result<()> {
    let (length, bytes) = form(message)?;
    let mut socket = socket;
    socket.write_all(&length)?;
    socket.write_all(&bytes)
}

/// Sends a message with a file's descriptor.
///
/// # Errors
/// As [`send`].
pub(super) fn send_with(socket: &UnixStream, message: &impl Serialize, file: BorrowedFd<'_>) -> io::Result<()> {
    let (length, bytes) = form(message)?;
    let files = [file];
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut room);
    // there is room for one
    control.push(SendAncillaryMessage::ScmRights(&files));
    // it belongs to the first byte
    let sent = again(|| sendmsg(socket, &[IoSlice::new(&length)], &mut control, SendFlags::NOSIGNAL))?;
    let mut socket = socket;
    socket.write_all(&length[sent..])?;
    socket.write_all(&bytes)
}

/// Receives a message, and passes by what descriptors come with it. None at the end of the stream.
///
/// # Errors
/// The system's; `InvalidData` for what is no message.
pub(super) fn receive<T: DeserializeOwned>(socket: impl Read) -> io::Result<Option<T>> {
    let mut socket = socket;
    let mut length = [0; LENGTH];
    let mut known = 0;
    while known < LENGTH {
        match again(|| socket.read(&mut length[known..]))? {
            0 if known == 0 => return Ok(None),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => known += read,
        }
    }
    body(socket, length).map(Some)
}

/// Receives a message and the descriptor that came with it, if one did. None at the end of the stream.
///
/// # Errors
/// As [`receive`].
pub(super) fn receive_with<T: DeserializeOwned>(socket: &UnixStream) -> io::Result<Option<(T, Option<OwnedFd>)>> {
    let mut length = [0; LENGTH];
    let (mut known, mut file) = (0, None);
    while known < LENGTH {
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut room);
        let mut parts = [IoSliceMut::new(&mut length[known..])];
        let read = again(|| recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC))?.bytes;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(files) = message {
                file = files.last().or(file);
            }
        }
        match read {
            0 if known == 0 => return Ok(None),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => known += read,
        }
    }
    body(socket, length).map(|message| Some((message, file)))
}

fn form(message: &impl Serialize) -> io::Result<([u8; LENGTH], Vec<u8>)> {
    let bytes = postcard::to_allocvec(message).map_err(io::Error::other)?;
    Ok(((bytes.len() as u64).to_le_bytes(), bytes))
}

fn body<T: DeserializeOwned>(socket: impl Read, length: [u8; LENGTH]) -> io::Result<T> {
    let nonsense = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
    let length = u64::from_le_bytes(length);
    if length > MOST_BYTES {
        return Err(nonsense("a message is too long"));
    }
    let (mut socket, length) = (socket, length as usize);
    let mut bytes = Vec::new();
    while bytes.len() < length {
        let known = bytes.len();
        bytes.resize(length.min(known + STEP), 0);
        socket.read_exact(&mut bytes[known..])?;
    }
    match postcard::take_from_bytes(&bytes) {
        Ok((message, [])) => Ok(message),
        Ok(_) => Err(nonsense("a message has something behind it")),
        Err(_) => Err(nonsense("a message has another form")),
    }
}

/// Calls again what a signal has interrupted.
fn again<T, E: Into<io::Error>>(mut call: impl FnMut() -> Result<T, E>) -> io::Result<T> {
    loop {
        match call().map_err(Into::into) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// Numbers that go as the bytes that they are.
#[derive(Debug, Clone, PartialEq, Default)]
pub(in crate::dataset) struct Packed<T>(pub(in crate::dataset) Vec<T>);

impl<T> Deref for Packed<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T: NoUninit> Serialize for Packed<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytemuck::cast_slice(&self.0))
    }
}

impl<'de, T: Pod> Deserialize<'de> for Packed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = deserializer.deserialize_bytes(Bytes)?;
        if !bytes.len().is_multiple_of(size_of::<T>()) {
            return Err(D::Error::custom("a part of a number"));
        }
        Ok(Self(bytemuck::pod_collect_to_vec(bytes)))
    }
}

/// Bytes of the message that is read.
struct Bytes;

impl<'de> Visitor<'de> for Bytes {
    type Value = &'de [u8];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes")
    }

    fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<&'de [u8], E> {
        Ok(bytes)
    }
}

/// Paths as the bytes that they are: they need not be text.
pub(in crate::dataset) mod path {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::{Path, PathBuf};

    use super::{Bytes, Deserializer, Serializer};

    pub(in crate::dataset) fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(path.as_os_str().as_bytes())
    }

    pub(in crate::dataset) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        deserializer.deserialize_bytes(Bytes).map(|bytes| OsString::from_vec(bytes.to_vec()).into())
    }
}

/// Errors of the system by their numbers or, where they have none, by kind and words.
pub(in crate::dataset) mod system {
    use std::io::{Error, ErrorKind};

    use super::{Deserialize, Deserializer, Serialize, Serializer};

    /// Kinds of errors without a number that decide whose fault they are.
    const KINDS: [ErrorKind; 10] = [
        ErrorKind::Other,
        ErrorKind::NotFound,
        ErrorKind::PermissionDenied,
        ErrorKind::ReadOnlyFilesystem,
        ErrorKind::IsADirectory,
        ErrorKind::NotADirectory,
        ErrorKind::InvalidFilename,
        ErrorKind::InvalidInput,
        ErrorKind::InvalidData,
        ErrorKind::UnexpectedEof,
    ];

    #[derive(Serialize, Deserialize)]
    enum Form {
        Number(i32),
        Words(u8, String),
    }

    pub(in crate::dataset) fn serialize<S: Serializer>(error: &Error, serializer: S) -> Result<S::Ok, S::Error> {
        let kind = || (0..).zip(KINDS).find(|(_, kind)| *kind == error.kind()).map_or(0, |(number, _)| number);
        let form = error.raw_os_error().map_or_else(|| Form::Words(kind(), error.to_string()), Form::Number);
        form.serialize(serializer)
    }

    pub(in crate::dataset) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Error, D::Error> {
        Ok(match Form::deserialize(deserializer)? {
            Form::Number(number) => Error::from_raw_os_error(number),
            Form::Words(kind, words) => {
                let kind = KINDS.get(usize::from(kind)).copied().unwrap_or(ErrorKind::Other);
                Error::new(kind, words)
            }
        })
    }
}

/// Errors of the HDF5 library by their words.
pub(in crate::dataset) mod library {
    use super::{Deserialize, Deserializer, Serializer};

    pub(in crate::dataset) fn serialize<S: Serializer>(error: &hdf5::Error, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(error)
    }

    pub(in crate::dataset) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<hdf5::Error, D::Error> {
        String::deserialize(deserializer).map(hdf5::Error::Internal)
    }
}
