//! Building a request with the names people know.

use std::{fmt, time::Duration};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use serde::Serialize;

use crate::{Body, CallOptions, Client, ClientError, Response, Serving};

/// A request to be filled in and sent. What is invalid is reported by [`send`](Self::send).
#[must_use = "a request does nothing until `send` is called"]
pub struct RequestBuilder {
    client: Client,
    request: Result<Request<Body>, ClientError>,
    options: CallOptions,
    has_options: bool,
}

impl RequestBuilder {
    pub(crate) fn new<U>(client: Client, method: Method, uri: U) -> Self
    where
        U: TryInto<Uri>,
        U::Error: Into<http::Error>,
    {
        let request = match uri.try_into() {
            Ok(uri) => {
                let mut request = Request::new(Body::empty());
                *request.method_mut() = method;
                *request.uri_mut() = uri;
                Ok(request)
            }
            Err(error) => Err(ClientError::invalid_request(error.into())),
        };
        Self { client, request, options: CallOptions::new(), has_options: false }
    }

    /// Adds a header behind those of the same name.
    pub fn header<K, V>(self, name: K, value: V) -> Self
    where
        K: TryInto<HeaderName>,
        K::Error: Into<http::Error>,
        V: TryInto<HeaderValue>,
        V::Error: Into<http::Error>,
    {
        self.change(|request| {
            let name = name.try_into().map_err(|error| ClientError::invalid_request(error.into()))?;
            let value = value.try_into().map_err(|error| ClientError::invalid_request(error.into()))?;
            request.headers_mut().append(name, value);
            Ok(())
        })
    }

    /// Adds headers, replacing those of the same names.
    pub fn headers(self, headers: HeaderMap) -> Self {
        self.change(|request| {
            let mut last = None;
            for (name, value) in headers {
                match name {
                    Some(name) => {
                        request.headers_mut().insert(&name, value);
                        last = Some(name);
                    }
                    // Another value of the name before.
                    None => {
                        if let Some(name) = &last {
                            request.headers_mut().append(name, value);
                        }
                    }
                }
            }
            Ok(())
        })
    }

    /// Adds pairs to the query of the target.
    pub fn query<T: Serialize + ?Sized>(self, pairs: &T) -> Self {
        self.change(|request| {
            let pairs = serde_urlencoded::to_string(pairs).map_err(ClientError::invalid_request)?;
            if pairs.is_empty() {
                return Ok(());
            }
            let uri = request.uri();
            let target = match uri.query() {
                Some(query) if !query.is_empty() => format!("{}?{query}&{pairs}", uri.path()),
                _ => format!("{}?{pairs}", uri.path()),
            };
            let mut parts = uri.clone().into_parts();
            parts.path_and_query = Some(target.try_into().map_err(ClientError::invalid_request)?);
            *request.uri_mut() = Uri::from_parts(parts).map_err(ClientError::invalid_request)?;
            Ok(())
        })
    }

    /// Sets the body to a JSON text, and `Content-Type` if there is none.
    #[cfg(feature = "json")]
    pub fn json<T: Serialize + ?Sized>(self, value: &T) -> Self {
        self.change(|request| {
            let text = serde_json::to_vec(value).map_err(ClientError::invalid_request)?;
            default_content_type(request, "application/json");
            *request.body_mut() = text.into();
            Ok(())
        })
    }

    /// Sets the body to a form, and `Content-Type` if there is none.
    pub fn form<T: Serialize + ?Sized>(self, pairs: &T) -> Self {
        self.change(|request| {
            let text = serde_urlencoded::to_string(pairs).map_err(ClientError::invalid_request)?;
            default_content_type(request, "application/x-www-form-urlencoded");
            *request.body_mut() = text.into();
            Ok(())
        })
    }

    /// Sets the body. For a stream: [`Body::new`].
    pub fn body(self, body: impl Into<Body>) -> Self {
        self.change(|request| {
            *request.body_mut() = body.into();
            Ok(())
        })
    }

    /// Sets the version. It says something to HTTP peers only.
    pub fn version(self, version: Version) -> Self {
        self.change(|request| {
            *request.version_mut() = version;
            Ok(())
        })
    }

    /// Sets `Authorization: Bearer <token>` for this call, marked sensitive.
    pub fn bearer_auth(self, token: impl fmt::Display) -> Self {
        self.change(|request| {
            let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| {
                ClientError::invalid_request("the token holds characters no header value may have")
            })?;
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
            Ok(())
        })
    }

    /// The time of this call, instead of the client's.
    pub fn timeout(self, limit: Duration) -> Self {
        self.option(|options| options.timeout(limit))
    }

    /// How long the body of the answer may take after its head; `None` for ever.
    pub fn body_timeout(self, limit: impl Into<Option<Duration>>) -> Self {
        self.option(|options| options.body_timeout(limit))
    }

    /// Calls of one key should go to one peer, if the picker heeds keys.
    pub fn key(self, key: impl Into<std::sync::Arc<str>>) -> Self {
        self.option(|options| options.key(key))
    }

    /// Sending it twice does no harm, whatever its method says.
    pub fn idempotent(self) -> Self {
        self.option(CallOptions::idempotent)
    }

    /// Whether a second copy may go to another peer when the answer is late; see [`CallOptions::hedge`].
    pub fn hedge(self, on: bool) -> Self {
        self.option(|options| options.hedge(on))
    }

    /// Writes down why each attempt went where it went; see [`CallOptions::explain`].
    pub fn explain(self) -> Self {
        self.option(CallOptions::explain)
    }

    /// The call is made to serve another one with these headers; see [`CallOptions::serving`].
    pub fn serving(self, headers: &HeaderMap) -> Self {
        self.option(|options| options.serving(headers))
    }

    /// The call is made to serve another one in another task; see [`CallOptions::served_by`].
    pub fn served_by(self, serving: Serving) -> Self {
        self.option(|options| options.served_by(serving))
    }

    /// The call has nothing to do with the one that the task serves; see [`CallOptions::detached`].
    pub fn detached(self) -> Self {
        self.option(CallOptions::detached)
    }

    /// The request, to be sent by other means.
    ///
    /// # Errors
    ///
    /// [`ClientError::InvalidRequest`].
    pub fn build(self) -> Result<Request<Body>, ClientError> {
        let Self { request, options, has_options, client: _ } = self;
        let mut request = request?;
        if has_options {
            request.extensions_mut().insert(options);
        }
        Ok(request)
    }

    /// Sends the request and waits for the head of the answer.
    ///
    /// # Errors
    ///
    /// [`ClientError`]. An answer is never an error: see [`Response::error_for_status`].
    ///
    /// # Cancel safety
    ///
    /// As [`Client::send`].
    pub async fn send(self) -> Result<Response, ClientError> {
        let client = self.client.clone();
        let request = self.build()?;
        Ok(Response::new(client.send(request).await?))
    }

    fn change(mut self, change: impl FnOnce(&mut Request<Body>) -> Result<(), ClientError>) -> Self {
        if let Ok(request) = &mut self.request
            && let Err(error) = change(request)
        {
            self.request = Err(error);
        }
        self
    }

    fn option(self, change: impl FnOnce(CallOptions) -> CallOptions) -> Self {
        Self { options: change(self.options), has_options: true, ..self }
    }
}

fn default_content_type(request: &mut Request<Body>, value: &'static str) {
    request.headers_mut().entry(CONTENT_TYPE).or_insert(HeaderValue::from_static(value));
}

impl fmt::Debug for RequestBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither target nor headers: both may hold credentials.
        let method = self.request.as_ref().ok().map(Request::method);
        f.debug_struct("RequestBuilder")
            .field("method", &method)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
