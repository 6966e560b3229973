//! What a script decides on, and what it may decide.

/// A request before its body is read: what a script decides on.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// Which node it came to, from 0.
    pub node: usize,
    /// How many requests with this method and service came to any node before.
    pub earlier: usize,
    /// `GET` or `POST`.
    pub method: String,
    /// Path and query as they were sent.
    pub target: String,
    /// In order, names in lower case.
    pub headers: Vec<(String, String)>,
}

impl RequestHead {
    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Whether it is a push's POST.
    pub fn is_push(&self) -> bool {
        self.method == "POST" && self.target.ends_with("/git-receive-pack")
    }

    /// Whether it asks for an advertisement.
    pub fn is_info_refs(&self) -> bool {
        self.target.contains("/info/refs")
    }

    pub(super) fn kind(&self) -> String {
        let path = self.target.split('?').next().unwrap_or_default();
        format!("{} {}", self.method, path.rsplit('/').next().unwrap_or_default())
    }
}

/// A request that was read, as far as it was.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its head.
    pub head: RequestHead,
    /// How many bytes of its body came.
    pub body_len: u64,
    /// The first MiB of its body, without the framing of chunks.
    pub body: Vec<u8>,
}

/// What a node answers.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Answer {
    /// What `git http-backend` answers.
    Git,
    /// `git http-backend` is run, so that a push is applied, and this is answered instead.
    GitThen(Reply),
    /// This, without reading the body.
    Early(Reply),
    /// This.
    Fixed(Reply),
}

/// An answer that a script makes.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status, e.g. 503.
    pub status: u16,
    /// Beside `Content-Length`.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Reply {
    /// A status with a body in plain text.
    pub fn text(status: u16, text: &str) -> Self {
        Self { status, headers: Vec::new(), body: text.as_bytes().to_vec() }
            .header("Content-Type", "text/plain")
    }

    /// A status with a body of HTML, as a load balancer sends it.
    pub fn html(status: u16) -> Self {
        let body = format!("<html><body><h1>{status}</h1></body></html>");
        Self { status, headers: Vec::new(), body: body.into_bytes() }.header("Content-Type", "text/html")
    }

    /// A redirect.
    pub fn redirect(status: u16, location: &str) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }.header("Location", location)
    }

    /// With one more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// What goes wrong with an answer.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// The request is read, and what it asks for done, but nothing is ever answered.
    Hang,
    /// Nothing more of the request than its head is read, and nothing answered.
    HangUnread,
    /// The connection is reset when this many bytes of the body are read, or all of it; nothing is done.
    ResetRequest(u64),
    /// The request is done, and the connection reset before the answer.
    ResetAnswer,
    /// The connection is reset after this many bytes of the answer's body.
    ResetAfter(u64),
    /// The connection is closed after this many bytes of the answer's body.
    CutAfter(u64),
    /// The connection is reset this many bytes behind the first occurrence of a text in the answer's body.
    ResetBehind(&'static str, usize),
    /// `Content-Length` claims this many bytes more than there are.
    LengthTooLong(u64),
}

/// What a node does with one request.
#[derive(Clone, Debug)]
pub struct Step {
    /// What it answers.
    pub answer: Answer,
    /// What goes wrong with that.
    pub fault: Fault,
}

impl Step {
    /// What `git http-backend` answers.
    pub fn git() -> Self {
        Self { answer: Answer::Git, fault: Fault::None }
    }

    /// The same, and something goes wrong.
    pub fn git_but(fault: Fault) -> Self {
        Self { answer: Answer::Git, fault }
    }

    /// An answer of the script's own.
    pub fn reply(reply: Reply) -> Self {
        Self { answer: Answer::Fixed(reply), fault: Fault::None }
    }
}
