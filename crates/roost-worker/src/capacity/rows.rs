//! Promises in the database: sums of machines, and reservations.

use super::{Admission, NoRoom, Promised};
use crate::limits;
use crate::store::row::{ends_of_holding, from_sql, to_sql};
use crate::store::{SqliteContext as _, Store, StoreError};
use roost_model::id::ReservationId;
use roost_model::machine::{CpuKind, Guest};
use roost_model::placement::{Capacity, Usage};
use roost_model::size::ByteSize;
use roost_model::time::Timestamp;
use roost_proto::worker::{Reservation, Reserve};
use rusqlite::{Connection, OptionalExtension as _, Params, Row, Transaction, params};

impl Store {
    /// What machines and reservations take, and which images and groups there are.
    pub(crate) async fn promised(&self, now: Timestamp) -> Result<Promised, StoreError> {
        self.run(move |connection| {
            let (images, groups) = (
                "SELECT DISTINCT image_digest FROM machines \
                 WHERE state <> 'destroyed' AND image_digest IS NOT NULL",
                "SELECT app, process_group, COUNT(*) FROM machines \
                 WHERE state <> 'destroyed' GROUP BY app, process_group",
            );
            let mut images = connection.prepare_cached(images).during("read images")?;
            let mut groups = connection.prepare_cached(groups).during("read groups")?;
            Ok(Promised {
                used: used(connection)?,
                reserved: reserved(connection, now)?,
                images: images
                    .query_map([], |row| row.get(0))
                    .and_then(Iterator::collect)
                    .during("read images")?,
                groups: groups
                    .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
                    .and_then(Iterator::collect)
                    .during("read groups")?,
            })
        })
        .await
    }

    /// Holds room, unless there is none. A repeated request is answered as before.
    pub(super) async fn reserve(
        &self,
        request: Reserve,
        admission: Admission,
        now: Timestamp,
    ) -> Result<Result<Reservation, NoRoom>, StoreError> {
        self.write(move |transaction| {
            forget_expired(transaction, now)?;
            if let Some(earlier) = find(transaction, &request.id)? {
                if earlier.guest == request.guest {
                    return Ok(Ok(earlier));
                }
                return Ok(Err(NoRoom::ReservationDiffers(earlier.id, earlier.guest)));
            }
            if let Err(reason) = admit(transaction, &admission, request.guest, now)? {
                return Ok(Err(reason));
            }
            let reservation = Reservation {
                id: request.id,
                guest: request.guest,
                expires_at: now.after(request.hold),
            };
            record(transaction, &reservation)?;
            Ok(Ok(reservation))
        })
        .await
    }

    /// Gives the room back.
    pub(super) async fn release(&self, id: ReservationId) -> Result<(), StoreError> {
        self.write(move |transaction| forget(transaction, &id))
            .await
    }
}

/// Whether a machine of this size may come; a reservation that is named is used up.
pub(crate) fn admit(
    transaction: &Transaction<'_>,
    admission: &Admission,
    guest: Guest,
    now: Timestamp,
) -> Result<Result<(), NoRoom>, StoreError> {
    if let Some(id) = &admission.reservation {
        forget_expired(transaction, now)?;
        // The room was promised before, whatever has become of the node since.
        return match find(transaction, id)? {
            None => Ok(Err(NoRoom::ReservationGone(id.clone()))),
            Some(held) if !held.guest.covers(guest) => {
                Ok(Err(NoRoom::ReservationDiffers(held.id, held.guest)))
            }
            Some(_) => forget(transaction, id).map(Ok),
        };
    }
    if admission.cordoned {
        return Ok(Err(NoRoom::Cordoned));
    }
    let taken = used(transaction)?.plus(reserved(transaction, now)?);
    Ok(match admission.capacity.shortage(taken, guest) {
        Some(shortage) => Err(NoRoom::Shortage(shortage)),
        None => Ok(()),
    })
}

/// Whether a machine of this size may become one of another.
pub(crate) fn admit_resize(
    connection: &Connection,
    capacity: &Capacity,
    (old, new): (Guest, Guest),
    now: Timestamp,
) -> Result<Result<(), NoRoom>, StoreError> {
    // A node that shrank must still be able to update what it has.
    if old.covers(new) {
        return Ok(Ok(()));
    }
    let taken = used(connection)?.plus(reserved(connection, now)?);
    let others = taken.minus(Usage::of(old));
    Ok(match capacity.shortage(others, new) {
        Some(shortage) => Err(NoRoom::Shortage(shortage)),
        None => Ok(()),
    })
}

/// What machines take, by class.
pub(crate) const USED: &str = "SELECT cpu_kind, COUNT(*), SUM(cpus), SUM(memory_mb) FROM machines \
    WHERE state <> 'destroyed' GROUP BY cpu_kind";

fn used(connection: &Connection) -> Result<Usage, StoreError> {
    sum(connection, USED, [])
}

fn reserved(connection: &Connection, now: Timestamp) -> Result<Usage, StoreError> {
    let query = "SELECT cpu_kind, COUNT(*), SUM(cpus), SUM(memory_mb) FROM reservations \
                 WHERE expires_ms > ?1 AND expires_ms <= ?2 GROUP BY cpu_kind";
    sum(
        connection,
        query,
        ends_of_holding(now, limits::RESERVATION_MAX),
    )
}

fn sum(connection: &Connection, query: &str, params: impl Params) -> Result<Usage, StoreError> {
    let mut statement = connection.prepare_cached(query).during("sum up sizes")?;
    let sums: Vec<Usage> = statement
        .query_map(params, |row| {
            let kind: String = row.get(0)?;
            let (n_machines, cpus, mib) = (row.get(1)?, from_sql(row.get(2)?), row.get(3)?);
            let of_kind = match CpuKind::parse(&kind) {
                Some(CpuKind::Performance) => Usage {
                    dedicated_cores: cpus,
                    dedicated_memory: mebibytes(mib),
                    ..Usage::default()
                },
                Some(CpuKind::Shared) | None => Usage {
                    shared_cpus: cpus,
                    shared_memory: mebibytes(mib),
                    ..Usage::default()
                },
            };
            Ok(Usage {
                n_machines,
                ..of_kind
            })
        })
        .and_then(Iterator::collect)
        .during("sum up sizes")?;
    Ok(sums.into_iter().fold(Usage::default(), Usage::plus))
}

fn mebibytes(n: i64) -> ByteSize {
    ByteSize(from_sql(n).saturating_mul(1024 * 1024))
}

fn record(connection: &Connection, reservation: &Reservation) -> Result<(), StoreError> {
    let guest = reservation.guest;
    connection
        .execute(
            "INSERT INTO reservations (id, cpu_kind, cpus, memory_mb, expires_ms) \
             VALUES (?1, ?2, ?3, ?4, ?5)",
            params![
                reservation.id.as_str(),
                guest.cpu_kind.as_str(),
                guest.n_cpus,
                // Rounded up: what is held is never less than what was asked.
                to_sql(guest.memory.bytes().div_ceil(1024 * 1024)),
                to_sql(reservation.expires_at.as_ms()),
            ],
        )
        .during("record reservation")?;
    Ok(())
}

fn find(connection: &Connection, id: &ReservationId) -> Result<Option<Reservation>, StoreError> {
    let read = |row: &Row<'_>| {
        let kind: String = row.get(0)?;
        Ok(Reservation {
            id: id.clone(),
            guest: Guest {
                cpu_kind: CpuKind::parse(&kind).unwrap_or(CpuKind::Shared),
                n_cpus: row.get(1)?,
                memory: mebibytes(row.get(2)?),
            },
            expires_at: Timestamp::from_ms(from_sql(row.get(3)?)),
        })
    };
    connection
        .query_row(
            "SELECT cpu_kind, cpus, memory_mb, expires_ms FROM reservations WHERE id = ?1",
            [id.as_str()],
            read,
        )
        .optional()
        .during("read reservation")
}

fn forget(connection: &Connection, id: &ReservationId) -> Result<(), StoreError> {
    connection
        .execute("DELETE FROM reservations WHERE id = ?1", [id.as_str()])
        .during("release reservation")?;
    Ok(())
}

fn forget_expired(connection: &Connection, now: Timestamp) -> Result<(), StoreError> {
    connection
        .execute(
            "DELETE FROM reservations WHERE expires_ms <= ?1 OR expires_ms > ?2",
            ends_of_holding(now, limits::RESERVATION_MAX),
        )
        .during("forget expired reservations")?;
    Ok(())
}
