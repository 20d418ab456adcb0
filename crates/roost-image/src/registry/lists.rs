//! Lists: repositories, tags, and what refers to a manifest.

use super::error::{RegistryCode, RegistryError};
use super::{Answer, Query, Registry, json};
use crate::limits::LIST_MAX;
use crate::manifest::OCI_INDEX;
use crate::store::Referrer;
use axum::http::{HeaderValue, StatusCode, header};
use roost_model::digest::Digest;
use serde_json::{Value, json as value};

/// Most names on one page: one less than the store lists, to see whether more follow.
const PAGE_MAX: usize = LIST_MAX - 1;

/// A part of a list.
struct Page {
    after: Option<String>,
    count: usize,
}

impl Page {
    fn parse(query: &Query) -> Result<Self, RegistryError> {
        let count = match query.get("n") {
            None => PAGE_MAX,
            Some(text) => text
                .parse::<usize>()
                .map(|count| count.min(PAGE_MAX))
                .map_err(|_| {
                    RegistryError::new(RegistryCode::SizeInvalid, "`n` is not a number of entries")
                })?,
        };
        Ok(Self {
            after: query.get("last").map(str::to_owned),
            count,
        })
    }

    /// Cuts a list that was read with one more entry; the link to the rest, if there is one.
    fn cut(&self, path: &str, names: &mut Vec<String>) -> Option<String> {
        if names.len() <= self.count {
            return None;
        }
        names.truncate(self.count);
        // Names and tags need no encoding in a query.
        let last = names.last()?;
        Some(format!(
            "<{path}?n={}&last={last}>; rel=\"next\"",
            self.count
        ))
    }
}

fn answer(body: &Value, link: Option<String>) -> Answer {
    let mut response = json(StatusCode::OK, body.to_string());
    if let Some(link) = link.and_then(|link| HeaderValue::from_str(&link).ok()) {
        response.headers_mut().insert(header::LINK, link);
    }
    Ok(response)
}

impl Registry {
    /// `GET /v2/_catalog`.
    pub(super) async fn catalog(&self, query: &Query) -> Answer {
        let page = Page::parse(query)?;
        let mut names = self
            .store
            .repositories(page.after.as_deref(), page.count + 1)
            .await?;
        let link = page.cut("/v2/_catalog", &mut names);
        answer(&value!({ "repositories": names }), link)
    }

    /// `GET /v2/NAME/tags/list`.
    pub(super) async fn tags(&self, name: &str, query: &Query) -> Answer {
        let page = Page::parse(query)?;
        let mut tags = self
            .store
            .tags(name, page.after.as_deref(), page.count + 1)
            .await?;
        if tags.is_empty() && !self.has_repository(name).await? {
            let message = format!("there is no repository `{name}`");
            return Err(RegistryError::new(RegistryCode::NameUnknown, message));
        }
        let link = page.cut(&format!("/v2/{name}/tags/list"), &mut tags);
        answer(&value!({ "name": name, "tags": tags }), link)
    }

    async fn has_repository(&self, name: &str) -> Result<bool, RegistryError> {
        let before = just_before(name);
        let next = self.store.repositories(before.as_deref(), 1).await?;
        Ok(next.first().is_some_and(|next| next == name))
    }

    /// `GET /v2/NAME/referrers/DIGEST`: an index, empty when nothing refers to it.
    pub(super) async fn referrers(&self, name: &str, digest: &Digest, query: &Query) -> Answer {
        let wanted = query.get("artifactType");
        let referrers = self.store.referrers(name, digest).await?;
        let manifests: Vec<Value> = referrers
            .iter()
            .filter(|referrer| wanted.is_none() || referrer.artifact_type.as_deref() == wanted)
            .map(descriptor)
            .collect();
        let body = value!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests });
        let mut response = json(StatusCode::OK, body.to_string());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(OCI_INDEX));
        if wanted.is_some() {
            headers.insert(
                "oci-filters-applied",
                HeaderValue::from_static("artifactType"),
            );
        }
        Ok(response)
    }
}

fn descriptor(referrer: &Referrer) -> Value {
    let mut descriptor = value!({
        "mediaType": referrer.media_type,
        "digest": referrer.digest,
        "size": referrer.size,
    });
    if let Some(artifact_type) = &referrer.artifact_type {
        descriptor["artifactType"] = value!(artifact_type);
    }
    if !referrer.annotations.is_empty() {
        descriptor["annotations"] = value!(referrer.annotations);
    }
    descriptor
}

/// A text that sorts before `name` and after every other repository name that does.
///
/// Names are ASCII, so the last character of Unicode sorts after all of their
/// endings.
fn just_before(name: &str) -> Option<String> {
    let last = name.chars().next_back()?;
    let front = &name[..name.len() - last.len_utf8()];
    let before = char::from_u32(u32::from(last).checked_sub(1)?)?;
    Some(format!("{front}{before}{}", char::MAX))
}

#[cfg(test)]
mod tests {
    #[test]
    fn nothing_fits_between_a_name_and_what_is_just_before_it() {
        let before = super::just_before("a/b").unwrap();
        assert!(before.as_str() < "a/b");
        for name in ["a/az", "a/a-zzzz", "a/a/x", "a/", "a", "a/9"] {
            assert!(name < before.as_str(), "{name}");
        }
    }
}
