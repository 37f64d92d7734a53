//! The parameters of a request: what its path, its query and `Last-Event-ID` say.

use std::str::FromStr;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Query, Request};
use hyper::Uri;
use hyper::header::HeaderValue;
use tonic::Status;

use super::super::token::{Resumable as _, StreamsOf};
use super::super::validate;
use super::route::Route;
use crate::event::TenantId;

/// The header with which a browser goes on from the last event that it has.
pub(super) const LAST_EVENT_ID: &str = "last-event-id";

/// Parameters by name, in the order in which they are given.
type Values = Vec<(String, String)>;
/// The parameters in a path, as `axum` extracts them.
pub(super) type Paths = Result<Path<Values>, PathRejection>;

/// What the checks of all calls do not see of a request: among its extensions.
#[derive(Debug, Clone)]
pub(super) struct Hidden {
    /// The URI as the client sent it, with the query.
    pub(super) uri: Uri,
    /// The value of [`LAST_EVENT_ID`].
    pub(super) last_event_id: Option<HeaderValue>,
}

/// The parameters of a request that nobody has taken yet. Each may be given once,
/// unless it is a list.
#[derive(Debug)]
pub(super) struct Parameters {
    values: Values,
    last_event_id: String,
}

impl Parameters {
    /// Takes the parameters of a request to a route.
    ///
    /// # Errors
    /// When the route does not know one of them, or they are not UTF-8.
    pub(super) fn new(route: &Route, path: Paths, request: &Request) -> Result<Self, Status> {
        let wrong = |what: &dyn std::fmt::Display| Status::invalid_argument(what.to_string());
        let Path(mut values) = path.map_err(|error| wrong(&error))?;
        let hidden = request.extensions().get::<Hidden>();
        let hidden = hidden.ok_or_else(|| Status::internal("a request without its URI"))?;
        let query = Query::<Values>::try_from_uri(&hidden.uri);
        let Query(query) = query.map_err(|error| wrong(&error))?;
        let is_known = |name: &str| route.query.iter().any(|known| known.name == name);
        if let Some((name, _)) = query.iter().find(|(name, _)| !is_known(name)) {
            return Err(unknown(name));
        }
        values.extend(query);
        let last_event_id = hidden.last_event_id.as_ref();
        let last_event_id = last_event_id.and_then(|id| id.to_str().ok());
        Ok(Self {
            values,
            last_event_id: last_event_id.unwrap_or_default().to_owned(),
        })
    }

    /// Makes a message, which must take all parameters that are given.
    ///
    /// # Errors
    /// When a parameter is not as it must be, or is left over.
    pub(super) fn message<M>(
        mut self,
        make: impl FnOnce(&mut Self) -> Result<M, Status>,
    ) -> Result<M, Status> {
        let message = make(&mut self)?;
        match self.values.first() {
            None => Ok(message),
            Some((name, _)) => Err(unknown(name)),
        }
    }

    /// Takes a text; empty when it is not given.
    pub(super) fn text(&mut self, name: &str) -> Result<String, Status> {
        Ok(self.take(name)?.unwrap_or_default())
    }

    /// Takes a number; 0 when it is not given.
    pub(super) fn number(&mut self, name: &str) -> Result<i32, Status> {
        self.parsed(name, "a number")
    }

    /// Takes a value of a type whose default stands for one that is not given.
    pub(super) fn parsed<T: FromStr + Default>(
        &mut self,
        name: &str,
        expected: &str,
    ) -> Result<T, Status> {
        match self.take(name)? {
            None => Ok(T::default()),
            Some(text) => text
                .parse()
                .map_err(|_| validate::violated(name, format!("{expected}, found {text:?}"))),
        }
    }

    /// Takes a list of at least one value: nobody can be added to a stream later, as a
    /// client of gRPC may.
    pub(super) fn list(&mut self, name: &str) -> Result<Vec<String>, Status> {
        let values = self.take_all(name);
        match values.is_empty() {
            true => Err(validate::violated(name, "at least one, found none".into())),
            false => Ok(values),
        }
    }

    /// Returns the token from which a watch is resumed. One that is of no use, of
    /// another version of the service say, has everything told anew: a browser that is
    /// refused does not come back.
    pub(super) fn resume_token(&self, tenant: &str) -> String {
        let id = self.last_event_id.as_str();
        let tenant = TenantId::new(tenant).ok();
        let since = tenant.and_then(|tenant| StreamsOf(&tenant).place(id));
        since.map_or(String::new(), |_| id.to_owned())
    }

    fn take(&mut self, name: &str) -> Result<Option<String>, Status> {
        let mut values = self.take_all(name);
        match values.len() {
            0 | 1 => Ok(values.pop()),
            count => Err(validate::violated(
                name,
                format!("once at most, found {count} times"),
            )),
        }
    }

    fn take_all(&mut self, name: &str) -> Vec<String> {
        let of_name = self.values.extract_if(.., |(key, _)| key == name);
        of_name.map(|(_, value)| value).collect()
    }
}

fn unknown(name: &str) -> Status {
    validate::violated(name, "nothing: there is no such parameter".into())
}
