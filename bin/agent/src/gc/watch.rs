//! When leases are looked at, and what is read for it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipam::{Key, Millis};
use tokio::sync::{Notify, mpsc, oneshot};

use super::{Look, Next, Pods, Seen};
use crate::kubernetes::{Lister, News, Right};
use crate::owner::Message;
use crate::store::since_epoch;

/// From the start, or a reason to look, until the look.
const FIRST: Duration = Duration::from_secs(1);

/// What the owner did about a look.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    pub(crate) next: Next,
    /// Notes that are not settled yet.
    pub(crate) unsettled: Vec<Key>,
}

/// Looks now and then, sooner when something is in doubt, until the agent ends.
pub(crate) async fn run(
    lister: Option<Lister>,
    socket: PathBuf,
    nudge: Arc<Notify>,
    to: mpsc::Sender<Message>,
) {
    let mut next = Next {
        after: FIRST,
        ask: true,
    };
    loop {
        tokio::select! {
            () = tokio::time::sleep(next.after) => {}
            () = nudge.notified() => tokio::time::sleep(FIRST).await,
        }
        let pods = match &lister {
            None => Pods::None,
            Some(_) if !next.ask => Pods::NotAsked,
            Some(lister) => ask(lister, &to).await,
        };
        let notes = Notes::read(&socket);
        let look = Seen::look().map(|seen| Look {
            seen,
            pods,
            deleted: notes.deleted(),
        });
        let look = look.map_err(|error| format!("{error:#}"));
        let (answer, settled) = oneshot::channel();
        if to
            .send(Message::Compare(Box::new(look), answer))
            .await
            .is_err()
        {
            return;
        }
        let Ok(settled) = settled.await else { return };
        notes.remove_settled(&settled.unsettled);
        next = settled.next;
    }
}

async fn ask(lister: &Lister, to: &mpsc::Sender<Message>) -> Pods {
    let (news, pods) = match lister.alive().await {
        Ok(alive) => (News::Done(Right::ListPods), Pods::Listed(alive)),
        Err(trouble) => {
            let why = trouble.to_string();
            (News::Failed(Right::ListPods, trouble), Pods::Failed(why))
        }
    };
    // The owner is gone only when the agent ends.
    let _ = to.send(Message::Cluster(news)).await;
    pods
}

/// The notes of DELs that nobody heard.
#[derive(Debug, Default)]
pub(crate) struct Notes(Vec<cni::deleted::Note>);

impl Notes {
    pub(crate) fn read(socket: &Path) -> Self {
        Self(cni::deleted::read(socket).unwrap_or_else(|error| {
            tracing::warn!(
                path = %cni::deleted::folder(socket).display(), %error,
                "notes of DELs that no agent heard cannot be read"
            );
            Vec::new()
        }))
    }

    pub(crate) fn deleted(&self) -> Vec<(Key, Millis)> {
        let notes = self.0.iter();
        let deleted = notes.filter_map(|note| Some((key_of(note)?, since_epoch(note.at?)?)));
        deleted.collect()
    }

    /// Removes all notes but those about `unsettled`.
    pub(crate) fn remove_settled(self, unsettled: &[Key]) {
        for note in self.0 {
            if key_of(&note).is_some_and(|key| unsettled.contains(&key)) {
                continue;
            }
            if let Err(error) = std::fs::remove_file(&note.path) {
                // It names an attachment that is not there any more: it does no harm.
                tracing::debug!(path = %note.path.display(), %error, "a note is left");
            }
        }
    }
}

fn key_of(note: &cni::deleted::Note) -> Option<Key> {
    let deleted = note.deleted.as_ref()?;
    Some(Key {
        network: deleted.network_name.clone(),
        container: deleted.container_id.clone(),
        ifname: deleted.if_name.clone(),
    })
}
