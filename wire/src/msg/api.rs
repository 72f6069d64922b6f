//! Requests to the API server and its replies: the same for daemons (this protocol) and, inside the API
//! server, for HTTP clients, whose requests are turned into these first.

use super::Body;
use bincode::{Decode, Encode};

/// What to do. The names are those of RBAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Verb {
    /// Read one object.
    Get,
    /// Read a collection.
    List,
    /// Read a collection's changes.
    Watch,
    /// Make an object.
    Create,
    /// Replace an object.
    Update,
    /// Change parts of an object.
    Patch,
    /// Delete one object.
    Delete,
    /// Delete a collection.
    DeleteCollection,
}

impl Verb {
    /// The verb as RBAC and audit spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Watch => "watch",
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Patch => "patch",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
        }
    }
}

/// The form of a patch body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum PatchType {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// Kubernetes' strategic merge patch.
    Strategic,
    /// Server-side apply; the body is JSON or YAML.
    Apply,
}

/// Query parameters and DeleteOptions, parsed. Absent = `None`, empty or false.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Options {
    /// `resourceVersion`, as sent.
    pub resource_version: Option<String>,
    /// `resourceVersionMatch`: `Exact` or `NotOlderThan`.
    pub resource_version_match: Option<String>,
    /// `labelSelector`, as sent.
    pub label_selector: Option<String>,
    /// `fieldSelector`, as sent.
    pub field_selector: Option<String>,
    /// `limit`; 0 = none.
    pub limit: u32,
    /// `continue` token.
    pub continue_token: Option<String>,
    /// `allowWatchBookmarks`.
    pub bookmarks: bool,
    /// `sendInitialEvents`.
    pub send_initial_events: Option<bool>,
    /// `timeoutSeconds` of a list or watch.
    pub timeout_s: Option<u32>,
    /// `dryRun=All`.
    pub dry_run: bool,
    /// `fieldManager`.
    pub field_manager: Option<String>,
    /// `fieldValidation`: `Strict`, `Warn` or `Ignore`.
    pub field_validation: Option<String>,
    /// `force` of server-side apply.
    pub force: Option<bool>,
    /// `propagationPolicy`: `Background`, `Foreground` or `Orphan`.
    pub propagation_policy: Option<String>,
    /// The old `orphanDependents`.
    pub orphan_dependents: Option<bool>,
    /// `gracePeriodSeconds`.
    pub grace_period_s: Option<i64>,
    /// `preconditions.uid` of a delete.
    pub precondition_uid: Option<String>,
    /// `preconditions.resourceVersion` of a delete.
    pub precondition_resource_version: Option<String>,
}

/// One request. For a create the name is in the body (and in `name` only for subresources).
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Request {
    /// What to do.
    pub verb: Verb,
    /// API group, empty for core.
    pub group: String,
    /// Version within the group.
    pub version: String,
    /// Plural resource name, `pods`.
    pub resource: String,
    /// `status`, `scale`, ...; empty = none.
    pub subresource: String,
    /// Namespace; empty = cluster scope, or all namespaces for a list.
    pub namespace: String,
    /// Object name; empty for collections.
    pub name: String,
    /// Parsed options.
    pub options: Options,
    /// For `Verb::Patch`.
    pub patch_type: Option<PatchType>,
    /// JSON object or patch; empty when there is none.
    pub body: Body,
}

impl Request {
    /// A request with nothing set but the verb and the resource.
    pub fn new(verb: Verb, group: &str, version: &str, resource: &str) -> Request {
        Request {
            verb,
            group: group.into(),
            version: version.into(),
            resource: resource.into(),
            subresource: String::new(),
            namespace: String::new(),
            name: String::new(),
            options: Options::default(),
            patch_type: None,
            body: Body::from([]),
        }
    }
}

/// Kind of a watch event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum EventType {
    /// The object is new, or new to this selector.
    Added,
    /// It changed.
    Modified,
    /// It is gone, or no longer selected; the body is its last state.
    Deleted,
    /// All changes up to the body's resourceVersion have been sent.
    Bookmark,
    /// The watch ends; the body is a Status.
    Error,
}

impl EventType {
    /// As in a WatchEvent's `type`.
    pub fn as_str(self) -> &'static str {
        match self {
            EventType::Added => "ADDED",
            EventType::Modified => "MODIFIED",
            EventType::Deleted => "DELETED",
            EventType::Bookmark => "BOOKMARK",
            EventType::Error => "ERROR",
        }
    }
}

/// What the API server answers.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Reply {
    /// To everything but a watch. A code of 400 and above has a Status as its body.
    Object {
        /// HTTP status code.
        code: u16,
        /// Texts of warning headers.
        warnings: Vec<String>,
        /// JSON: object, list or Status.
        body: Body,
    },
    /// One change; a watch stream carries these until it is reset or finished.
    Event {
        /// What happened.
        kind: EventType,
        /// Its revision.
        revision: u64,
        /// JSON of the object.
        body: Body,
    },
}
