//! The wire: generated types, and their conversion to and from ours. The only place that knows protobuf.
//!
//! What comes in is hostile until it is converted; what is converted is checked. Types of the wire do not leave.

// A number of the service is never cut in silence: a cast that can is checked, or argued for.
#![warn(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]

use tonic::Code;

pub mod certificate;
pub mod client;
mod client_error;
pub mod controller_link;
pub mod convert;
pub mod dial;
pub mod endpoint_link;
mod parts;
pub mod service;
pub mod version;
pub mod view;

/// The generated types and services of `proto/speckled/v1`.
#[expect(missing_docs, reason = "generated; the files in proto/ are its documentation")]
#[expect(unused_qualifications, clippy::all, clippy::allow_attributes, reason = "generated")]
pub mod wire {
    tonic::include_proto!("speckled.v1");
}

/// Whether a call that failed with this code fails however often it is tried.
fn refuses(code: Code) -> bool {
    match code {
        Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument | Code::FailedPrecondition => true,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::AlreadyExists
        | Code::ResourceExhausted
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => false,
    }
}
