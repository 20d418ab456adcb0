//! Leases on disk: one row per machine at most.
//!
//! A lease that has expired is as good as none. Of a nonce only a hash is kept,
//! so that nobody who reads the database or asks for the lease can act under it.

use super::row::{NewEvent, Row, Wanted, ends_of_holding, from_sql, to_sql};
use super::{SqliteContext as _, Store, StoreError, append_event, get_row};
use roost_auth::token::fingerprint;
use roost_model::id::{InstanceId, MachineId};
use roost_model::machine::MachineState;
use roost_model::time::Timestamp;
use roost_proto::worker::{Asker, Lease, LeaseNonce, ReleaseLease, TakeLease, WorkerError};
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

/// Why a lease speaks against a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LeaseRefusal {
    /// There is no such machine.
    NoMachine(MachineId),
    /// It is destroyed or is being destroyed.
    Going(MachineId),
    /// Somebody else holds a lease.
    Held {
        /// On which machine.
        machine: MachineId,
        /// The lease.
        lease: Lease,
        /// When it was looked at.
        now: Timestamp,
    },
    /// The lease that the asker held has expired, or never was.
    NotHeld(MachineId),
}

impl From<LeaseRefusal> for WorkerError {
    fn from(refusal: LeaseRefusal) -> Self {
        match refusal {
            LeaseRefusal::NoMachine(id) => Self::NotFound(id),
            LeaseRefusal::Going(id) => {
                Self::Conflict(format!("machine {id} is destroyed: it cannot be leased"))
            }
            LeaseRefusal::Held {
                machine,
                lease,
                now,
            } => Self::Leased {
                machine,
                owner: lease.owner,
                expires_at: lease.expires_at,
                left: lease.expires_at.since(now),
            },
            LeaseRefusal::NotHeld(id) => Self::NoLease(id),
        }
    }
}

impl Store {
    /// Gives a lease, or more time to the one that the asker holds.
    pub(crate) async fn take_lease(
        &self,
        id: &MachineId,
        request: TakeLease,
        asker: Asker,
        now: Timestamp,
    ) -> Result<Result<Lease, LeaseRefusal>, StoreError> {
        let id = id.clone();
        self.write(move |transaction| {
            let Some(row) = get_row(transaction, &id)? else {
                return Ok(Err(LeaseRefusal::NoMachine(id)));
            };
            if row.wanted == Wanted::Gone || row.state == MachineState::Destroyed {
                return Ok(Err(LeaseRefusal::Going(id)));
            }
            match find(transaction, &id, Some(&request.nonce), now)? {
                Some(lease) if !lease.is_own => {
                    let machine = id;
                    return Ok(Err(LeaseRefusal::Held {
                        machine,
                        lease,
                        now,
                    }));
                }
                None if asker.lease_nonce.is_some() => return Ok(Err(LeaseRefusal::NotHeld(id))),
                Some(_) | None => {}
            }
            write(transaction, &row, &request, &asker, now).map(Ok)
        })
        .await
    }

    /// The lease that holds now.
    pub(crate) async fn lease(
        &self,
        id: &MachineId,
        nonce: Option<LeaseNonce>,
        now: Timestamp,
    ) -> Result<Option<Lease>, StoreError> {
        let id = id.clone();
        self.run(move |connection| find(connection, &id, nonce.as_ref(), now))
            .await
    }

    /// Takes a lease back.
    pub(crate) async fn release_lease(
        &self,
        id: &MachineId,
        how: ReleaseLease,
        asker: Asker,
        now: Timestamp,
    ) -> Result<Result<(), LeaseRefusal>, StoreError> {
        let id = id.clone();
        self.write(move |transaction| {
            let Some(row) = get_row(transaction, &id)? else {
                return Ok(Err(LeaseRefusal::NoMachine(id)));
            };
            let Some(lease) = find(transaction, &id, asker.lease_nonce.as_ref(), now)? else {
                return Ok(Err(LeaseRefusal::NotHeld(id)));
            };
            match how {
                ReleaseLease::Own if !lease.is_own => {
                    let machine = id;
                    return Ok(Err(LeaseRefusal::Held {
                        machine,
                        lease,
                        now,
                    }));
                }
                ReleaseLease::Own => {}
                ReleaseLease::Any => {
                    let mut event = NewEvent::asked("lease-clear", &asker.cause);
                    event.detail["reason"] = format!("it was leased by {}", lease.owner).into();
                    append_event(transaction, &row, &event, now)?;
                }
            }
            transaction
                .execute("DELETE FROM leases WHERE machine_id = ?1", [id.as_str()])
                .during("delete lease")?;
            Ok(Ok(()))
        })
        .await
    }

    /// Whether a lease speaks against what is asked now.
    pub(crate) async fn admit_asker(
        &self,
        id: &MachineId,
        asker: Asker,
        now: Timestamp,
    ) -> Result<Result<(), LeaseRefusal>, StoreError> {
        let id = id.clone();
        self.run(move |connection| admit(connection, &id, &asker, now))
            .await
    }
}

/// Whether a lease speaks against what is asked now.
pub(super) fn admit(
    connection: &Connection,
    id: &MachineId,
    asker: &Asker,
    now: Timestamp,
) -> Result<Result<(), LeaseRefusal>, StoreError> {
    if !asker.cause.heeds_leases() {
        return Ok(Ok(()));
    }
    Ok(
        match find(connection, id, asker.lease_nonce.as_ref(), now)? {
            Some(lease) if !lease.is_own => Err(LeaseRefusal::Held {
                machine: id.clone(),
                lease,
                now,
            }),
            // It was changed by somebody else meanwhile, perhaps.
            None if asker.lease_nonce.is_some() => Err(LeaseRefusal::NotHeld(id.clone())),
            Some(_) | None => Ok(()),
        },
    )
}

/// The lease that holds now; `nonce` tells whether it is the asker's own.
fn find(
    connection: &Connection,
    id: &MachineId,
    nonce: Option<&LeaseNonce>,
    now: Timestamp,
) -> Result<Option<Lease>, StoreError> {
    let [after, until] = ends_of_holding(now, Lease::TTL_MAX);
    let found: Option<(String, String, String, i64, String)> = connection
        .prepare_cached(
            "SELECT owner, description, version, expires_ms, nonce_hash FROM leases \
             WHERE machine_id = ?1 AND expires_ms > ?2 AND expires_ms <= ?3",
        )
        .and_then(|mut statement| {
            statement
                .query_row(params![id.as_str(), after, until], |row| {
                    let (owner, description) = (row.get(0)?, row.get(1)?);
                    Ok((owner, description, row.get(2)?, row.get(3)?, row.get(4)?))
                })
                .optional()
        })
        .during("read lease")?;
    let Some((owner, description, version, expires_ms, nonce_hash)) = found else {
        return Ok(None);
    };
    let version = InstanceId::parse(&version).map_err(|error| StoreError::Damaged {
        machine: id.to_string(),
        problem: format!("version of its lease: {error}"),
    })?;
    Ok(Some(Lease {
        owner,
        description,
        version,
        expires_at: Timestamp::from_ms(from_sql(expires_ms)),
        is_own: nonce.is_some_and(|nonce| fingerprint(nonce.expose().as_bytes()) == nonce_hash),
    }))
}

/// Writes the machine's lease in the place of any other.
pub(super) fn write(
    transaction: &Transaction<'_>,
    row: &Row,
    request: &TakeLease,
    asker: &Asker,
    now: Timestamp,
) -> Result<Lease, StoreError> {
    let cause = &asker.cause;
    let lease = Lease {
        owner: cause.subject().unwrap_or(cause.as_str()).to_owned(),
        description: request.description.clone(),
        version: row.instance_id.clone(),
        expires_at: now.after(request.ttl),
        is_own: true,
    };
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO leases \
             (machine_id, nonce_hash, owner, description, version, expires_ms) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )
        .and_then(|mut statement| {
            statement.execute(params![
                row.id.as_str(),
                fingerprint(request.nonce.expose().as_bytes()),
                lease.owner,
                lease.description,
                lease.version.as_str(),
                to_sql(lease.expires_at.as_ms()),
            ])
        })
        .during("write lease")?;
    Ok(lease)
}

#[cfg(test)]
mod tests {
    use super::{LeaseRefusal, admit};
    use crate::capacity::Admission;
    use crate::store::{Inserted, Store};
    use crate::tests::samples;
    use roost_model::id::MachineId;
    use roost_model::time::Timestamp;
    use roost_proto::worker::{LeaseNonce, TakeLease};
    use std::path::Path;
    use std::time::Duration;

    const START: Timestamp = Timestamp::from_ms(1_000);

    async fn store_with_machine(dir: &Path) -> (Store, MachineId) {
        let store = Store::open(&dir.join("worker.db")).unwrap();
        let admission = Admission {
            capacity: samples::capacity(1),
            cordoned: false,
            reservation: None,
        };
        let inserted = store.insert(samples::row(), admission, (samples::asker(), None), None);
        let Inserted::New(row) = inserted.await.unwrap() else {
            panic!("there is room");
        };
        (store, row.id)
    }

    fn take(n: u8) -> TakeLease {
        TakeLease {
            nonce: LeaseNonce::from_bytes([n; 16]),
            ttl: Duration::from_secs(10),
            description: String::new(),
        }
    }

    #[tokio::test]
    async fn a_lease_ends_with_its_time_and_not_a_moment_before() {
        let dir = tempfile::tempdir().unwrap();
        let (store, id) = store_with_machine(dir.path()).await;
        let asker = samples::asker();
        let lease = store.take_lease(&id, take(1), asker.clone(), START).await;
        let expires_at = lease.unwrap().unwrap().expires_at;
        let last = START.after(Duration::from_millis(9_999));
        let refused = store.admit_asker(&id, asker.clone(), last).await.unwrap();
        assert!(matches!(refused, Err(LeaseRefusal::Held { .. })));
        let admitted = store.admit_asker(&id, asker.clone(), expires_at).await;
        assert_eq!(admitted.unwrap(), Ok(()));
        // Another's now; the first holder learns that it has lost it.
        let second = store
            .take_lease(&id, take(2), asker.clone(), expires_at)
            .await;
        assert!(second.unwrap().is_ok());
        let mut holder = asker;
        holder.lease_nonce = Some(take(1).nonce);
        let refused = store.take_lease(&id, take(1), holder, expires_at).await;
        assert!(matches!(refused.unwrap(), Err(LeaseRefusal::Held { .. })));
    }

    #[tokio::test]
    async fn the_database_does_not_know_the_nonce_and_keeps_the_lease_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let (store, id) = store_with_machine(dir.path()).await;
        let mut asker = samples::asker();
        let taken = store.take_lease(&id, take(1), asker.clone(), START).await;
        taken.unwrap().unwrap();
        drop(store);
        let store = Store::open(&dir.path().join("worker.db")).unwrap();
        let columns = store.run(|connection| {
            let sql = "SELECT nonce_hash || owner || description || version FROM leases";
            Ok(connection.query_row(sql, [], |row| row.get::<_, String>(0)))
        });
        let columns = columns.await.unwrap().unwrap();
        assert!(!columns.contains(take(1).nonce.expose()), "{columns}");
        asker.lease_nonce = Some(take(1).nonce);
        let lease = store.lease(&id, asker.lease_nonce.clone(), START).await;
        assert!(lease.unwrap().unwrap().is_own);
        let admitted = store.run(move |connection| admit(connection, &id, &asker, START));
        assert_eq!(admitted.await.unwrap(), Ok(()));
    }
}
