//! Which machines a request asks for: by headers of the client, or because the
//! app that answered handed it on ([`crate::replay`]).
//!
//! Names in headers that nothing has are no error: a preference is passed over,
//! and what is forced finds nobody.

use crate::areas;
use crate::headers::HeaderPair;
use crate::limits;
use crate::table::Target;
use http::{HeaderMap, HeaderName, HeaderValue};

static PREFER_REGION: HeaderPair = HeaderPair::new("fly-prefer-region", "roost-prefer-region");
static FORCE_REGION: HeaderPair = HeaderPair::new("fly-force-region", "roost-force-region");
static PREFER_MACHINE: HeaderPair =
    HeaderPair::new("fly-prefer-instance-id", "roost-prefer-instance-id");
static FORCE_MACHINE: HeaderPair =
    HeaderPair::new("fly-force-instance-id", "roost-force-instance-id");
static ALL: [&HeaderPair; 4] = [
    &PREFER_REGION,
    &FORCE_REGION,
    &PREFER_MACHINE,
    &FORCE_MACHINE,
];

/// Some machines of an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Group {
    /// All of them.
    Any,
    /// Those of a region.
    Region(String),
    /// Those of regions that have a name together, or of one that has this name itself.
    Area(String, &'static [&'static str]),
    /// One.
    Machine(String),
}

impl Group {
    fn has(&self, target: &Target) -> bool {
        match self {
            Self::Any => true,
            Self::Region(region) => target.endpoint.region.as_str() == region,
            Self::Area(name, regions) => {
                let region = target.endpoint.region.as_str();
                region == name || regions.contains(&region)
            }
            Self::Machine(id) => target.endpoint.machine_id.as_str() == id,
        }
    }
}

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Wants {
    /// One after the other, until one has a machine that takes the request; all of them when empty.
    groups: Vec<Group>,
    /// Not this machine.
    not: Option<String>,
    /// The machine that is preferred, for the header that says it could not be used.
    pub(crate) preferred: Option<String>,
}

impl Wants {
    /// What the headers of a request ask for.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        // Usually there are none of them: one look per header that the client sent.
        let is_one = |name: &HeaderName| ALL.iter().any(|pair| pair.is(name));
        if !headers.keys().any(is_one) {
            return Self::default();
        }
        let mut wants = Self::default();
        if let Some(id) = FORCE_MACHINE.get(headers) {
            wants.groups.push(Group::Machine(id.to_owned()));
            return wants;
        }
        if let Some(id) = PREFER_MACHINE.get(headers) {
            wants = Self::preferring(id);
        }
        let regions = FORCE_REGION.get(headers).or(PREFER_REGION.get(headers));
        wants.regions(regions.unwrap_or_default());
        if FORCE_REGION.get(headers).is_none() {
            wants.groups.push(Group::Any);
        }
        wants
    }

    /// Wants this machine if it takes the request, and else what is added.
    pub(crate) fn preferring(id: &str) -> Self {
        Self {
            groups: vec![Group::Machine(id.to_owned())],
            not: None,
            preferred: Some(id.to_owned()),
        }
    }

    /// Wants only this machine.
    pub(crate) fn only(id: &str) -> Self {
        Self {
            groups: vec![Group::Machine(id.to_owned())],
            ..Self::default()
        }
    }

    /// Adds regions, in the order of a list with commas; `any` is all of them.
    pub(crate) fn regions(&mut self, list: &str) {
        let words = list
            .split(',')
            .map(str::trim)
            .filter(|word| !word.is_empty());
        let room = limits::WANTED_REGIONS_MAX.saturating_sub(self.groups.len());
        self.groups.extend(words.take(room).map(|word| {
            let word = word.to_ascii_lowercase();
            match areas::regions_of(&word) {
                _ if word == "any" => Group::Any,
                Some(regions) => Group::Area(word, regions),
                None => Group::Region(word),
            }
        }));
    }

    /// Adds all machines.
    pub(crate) fn then_any(&mut self) {
        self.groups.push(Group::Any);
    }

    /// Leaves one machine out.
    pub(crate) fn but_not(&mut self, id: &str) {
        self.not = Some(id.to_owned());
    }

    /// Whether every machine will do.
    pub(crate) fn is_anything(&self) -> bool {
        self.groups.is_empty() && self.not.is_none()
    }

    /// Whether it asks for a certain machine, if only first.
    pub(crate) fn names_a_machine(&self) -> bool {
        let mut groups = self.groups.iter();
        groups.any(|group| matches!(group, Group::Machine(_)))
    }

    /// The groups to try, in order.
    pub(crate) fn groups(&self) -> &[Group] {
        if self.groups.is_empty() {
            &[Group::Any]
        } else {
            &self.groups
        }
    }

    /// Whether a machine of this group may have the request.
    pub(crate) fn allows(&self, group: &Group, target: &Target) -> bool {
        group.has(target) && self.not.as_deref() != Some(target.endpoint.machine_id.as_str())
    }

    /// Whether a machine may have the request at all.
    pub(crate) fn allows_at_all(&self, target: &Target) -> bool {
        self.groups().iter().any(|group| self.allows(group, target))
    }

    /// The id of the preferred machine, when it is not this one.
    pub(crate) fn unavailable(&self, target: &Target) -> Option<HeaderValue> {
        let preferred = self.preferred.as_deref()?;
        let is_it = preferred == target.endpoint.machine_id.as_str();
        (!is_it).then(|| HeaderValue::from_str(preferred).ok())?
    }
}

#[cfg(test)]
mod tests {
    use super::{Group, Wants};
    use http::{HeaderMap, HeaderName, HeaderValue};

    fn groups(lines: &[(&'static str, &'static str)]) -> Vec<Group> {
        let headers: HeaderMap = lines
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect();
        Wants::of(&headers).groups
    }

    #[test]
    fn headers_become_groups_in_order_of_preference() {
        let region = |name: &str| Group::Region(name.to_owned());
        let machine = |name: &str| Group::Machine(name.to_owned());
        assert_eq!(groups(&[("x-any", "1")]), []);
        assert_eq!(
            groups(&[("fly-prefer-region", "fra, ams ,,IAD")]),
            [region("fra"), region("ams"), region("iad"), Group::Any]
        );
        assert_eq!(groups(&[("roost-force-region", "fra")]), [region("fra")]);
        assert_eq!(
            groups(&[
                ("fly-prefer-instance-id", "m1"),
                ("fly-prefer-region", "fra")
            ]),
            [machine("m1"), region("fra"), Group::Any]
        );
        assert_eq!(
            groups(&[
                ("fly-force-instance-id", "m1"),
                ("fly-prefer-region", "fra")
            ]),
            [machine("m1")]
        );
    }
}
