//! The hand-over of connections, snapshots, room and commands between threads, run through many schedules.
//!
//! The program's own `mailbox`, `admission`, `published`, `bell` and `commands` are compiled here a second time, over the
//! types of shuttle: its scheduler runs one thread at a time, and chooses at each atomic operation, lock and wait which goes
//! on. What waits for a wake-up that never comes is a deadlock, which shuttle reports. See `net` for what is not the program's.
//!
//! Each function below is one schedule of a few threads; `check` runs it through many. What a worker and the listener do
//! between the calls of these files is here in its shortest form, and where its order must not matter, chance decides.
//!
//! All operations are sequentially consistent here, whatever they ask for. The orders that need no more than `Relaxed`,
//! `Acquire` or `Release` are argued for where they stand.

// Unwrapping is how a model fails.
#![allow(clippy::unwrap_used)]
// The program uses more of its files than the models do.
#![allow(dead_code, unreachable_pub, missing_docs)]

#[path = "../../../src/commands.rs"]
mod commands;
mod net;

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::RandomScheduler;
use shuttle::{Config, Runner, thread};

use commands::{Command, Commands};
use net::admission::Admission;
use net::mailbox::{Accepted, Mailbox, MailboxSender, mailbox};
use net::published::{Published, View};
use net::sync::{AtomicUsize, Mutex, Ordering};
use net::waker::Waker;

/// Longer than any run.
const FOR_EVER: Duration = Duration::MAX;

/// Runs `model` through so many schedules, which chance chooses. One that fails prints its seed; with
/// `SHUTTLE_RANDOM_SEED` set to that the first schedule is the same one again.
pub fn check(schedules: usize, model: fn()) {
    let mut config = Config::new();
    config.silence_warnings = true;
    Runner::new(RandomScheduler::new(schedules), config).run(model);
}

/// A connection that can be told from others by its number.
fn connection(number: u16) -> Accepted {
    // Any descriptor does: nothing is read from it.
    let descriptor = OwnedFd::from(File::open("/dev/null").unwrap());
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, number));
    (TcpStream::from(descriptor), address)
}

/// A worker's thread, as far as others see it.
struct Worker {
    mailbox: Arc<Mailbox>,
    /// The connections that were taken over, in their order.
    taken: Vec<u16>,
    /// No more will come.
    all_came: bool,
    /// How often it has announced that it sleeps.
    sleeps: usize,
    /// What it knows of keeps it from sleeping.
    has_work: bool,
}

impl Worker {
    fn new(mailbox: Arc<Mailbox>) -> Self {
        Self {
            mailbox,
            taken: Vec::new(),
            all_came: false,
            sleeps: 0,
            has_work: false,
        }
    }

    /// Waits as a worker does: for its waker, or not at all where it has work left.
    fn rest(&mut self) {
        let has_work = std::mem::take(&mut self.has_work) || thread_rng().gen_ratio(1, 4);
        self.sleeps += usize::from(!has_work);
        let waker = &self.mailbox.waker;
        self.mailbox
            .rest(has_work, |may_sleep| waker.poll(may_sleep));
    }

    /// Takes connections over, not always all: a worker has others to serve.
    fn take_over(&mut self) {
        for _ in 0..2 {
            match self.mailbox.receive() {
                Ok((_, address)) => self.taken.push(address.port()),
                Err(all_came) => {
                    self.all_came = all_came;
                    return;
                }
            }
        }
        // The sockets just registered bring events.
        self.has_work = true;
    }
}

/// Every connection that is sent is received, in order, whenever the worker falls asleep, also through a full mailbox
/// (here one of two connections); so is the end. And the listener wakes it once at the most for each sleep.
///
/// It needs: in `Mailbox::fall_asleep` the announcement before the look at the channel; in `rest` the wait between
/// `fall_asleep` and `wake_up`; the connection in the channel before `MailboxSender::wake` looks whether the worker sleeps,
/// and a `wake` before the wait for a full channel; in `MailboxSender` the channel's end dropped before the last ring; and no
/// sleep of a worker that took as many as it may at once (`Worker::take_over` in the program).
pub fn connections() {
    // Few show best what one wake-up does, many a full mailbox.
    let count = thread_rng().gen_range(1..6);
    let (mailbox, sender) = mailbox().unwrap();
    let waker = mailbox.waker.clone();
    let all_taken = Arc::new(Waker::new().unwrap());
    let tell = all_taken.clone();
    let worker = thread::spawn(move || {
        let mut worker = Worker::new(mailbox);
        while !worker.all_came {
            worker.rest();
            worker.take_over();
            if worker.taken.len() == usize::from(count) {
                tell.wake();
            }
        }
        worker
    });
    for number in 0..count {
        sender.send(connection(number));
        // One wake for several is enough.
        if number + 1 == count || thread_rng().r#gen() {
            sender.wake();
        }
    }
    // The end would wake the worker for connections, too.
    if thread_rng().r#gen() {
        all_taken.wait(FOR_EVER);
    }
    drop(sender);
    let worker = worker.join().unwrap();
    assert_eq!(worker.taken, (0..count).collect::<Vec<u16>>());
    let last_ring = 1;
    assert!(waker.wakes() <= worker.sleeps + last_ring);
}

/// Whichever way a thread waits for its waker, it goes by the last snapshot in the end, and never back to an older one.
///
/// It needs: in `Published::publish` the number after the value (or both under the lock), and the ring after the number; in
/// `View::new` the waker among the followers before the first look, and the number read under the lock, there as in `look`; in
/// every thread a look between the end of one wait and the next.
pub fn snapshots() {
    const LAST: usize = 3;
    let published = Arc::new(Published::new(0));
    let follow = |wait: fn(&Mailbox), mailbox: Arc<Mailbox>| {
        let published = published.clone();
        thread::spawn(move || {
            let mut view = View::new(&published, mailbox.waker.clone());
            let mut before = **view.value();
            while before != LAST {
                wait(&mailbox);
                let is_another = view.look(&published);
                let now = **view.value();
                assert!(now >= before && is_another == (now > before));
                before = now;
            }
        })
    };
    let ends = [(); 2].map(|()| mailbox().unwrap());
    let [(first, _), (second, _)] = &ends;
    let as_worker: fn(&Mailbox) =
        |mailbox| mailbox.rest(false, |may_sleep| mailbox.waker.poll(may_sleep));
    let as_listener: fn(&Mailbox) = |mailbox| mailbox.waker.wait(FOR_EVER);
    let threads = [
        follow(as_worker, first.clone()),
        follow(as_listener, second.clone()),
    ];
    for next in 1..=LAST {
        published.publish(next);
        assert_eq!(*published.current(), next);
    }
    for thread in threads {
        thread.join().unwrap();
    }
}

/// At the limit of connections, with newcomers in the backlog: no wish for room is lost, whichever worker closes what and
/// when, and none is answered twice. Where no client ends by itself, exactly one is closed for each newcomer. The limit is
/// never exceeded.
///
/// It needs: a wish that is taken by `swap`, by one thread; in `Admission::make_room` no close without a wish, and the ring
/// after the close; a ring from a worker that has no idle client; in `MailboxSender::ask_for_room` the ring after the flag.
pub fn room() {
    const MAX: usize = 2;
    const NEWCOMERS: u16 = 3;
    let admission = Arc::new(Admission::new(MAX).unwrap());
    let made_room = Arc::new(AtomicUsize::new(0));
    let clients_end = thread_rng().r#gen();
    let mut senders = Vec::new();
    let mut workers = Vec::new();
    for number in 0..2 {
        let (mailbox, sender) = mailbox().unwrap();
        // Each has one idle client.
        admission.add();
        sender.send(connection(number));
        senders.push(sender);
        let (admission, made_room) = (admission.clone(), made_room.clone());
        workers.push(thread::spawn(move || {
            serve_idle_clients(mailbox, &admission, &made_room, clients_end)
        }));
    }
    let mut wishes = 0;
    for number in 0..NEWCOMERS {
        while !admission.has_room() {
            wishes += 1;
            admission.wait_for_room(|| {
                senders[thread_rng().gen_range(0..2)].ask_for_room();
                FOR_EVER
            });
        }
        admission.add();
        assert!(admission.count() <= MAX);
        let worker = senders.iter().min_by_key(|worker| worker.load()).unwrap();
        worker.send(connection(number));
        worker.wake();
    }
    drop(senders);
    let open: usize = workers
        .into_iter()
        .map(|worker| worker.join().unwrap())
        .sum();
    assert_eq!(admission.count(), open);
    let made_room = made_room.load(Ordering::SeqCst);
    assert!(clients_end || made_room == NEWCOMERS.into());
    let answers = admission.listener.wakes();
    assert!(made_room <= answers && answers <= wishes);
}

/// The same where no client is idle, so that no worker is asked: a connection that ends makes room in time.
///
/// It needs: in `Admission::wait_for_room` the wish before the second look at `has_room`; in `remove` the count before the
/// wish is taken, and a ring.
pub fn room_of_busy_clients() {
    const MAX: usize = 2;
    let admission = Arc::new(Admission::new(MAX).unwrap());
    let clients = [(); MAX].map(|()| {
        admission.add();
        let admission = admission.clone();
        thread::spawn(move || admission.remove())
    });
    for _ in 0..MAX {
        while !admission.has_room() {
            admission.wait_for_room(|| FOR_EVER);
        }
        admission.add();
    }
    assert_eq!(admission.count(), MAX);
    for client in clients {
        client.join().unwrap();
    }
}

/// A worker all of whose clients are idle; now and then one ends by itself, with `clients_end`. Gives how many are open in the end.
fn serve_idle_clients(
    mailbox: Arc<Mailbox>,
    admission: &Admission,
    made_room: &AtomicUsize,
    clients_end: bool,
) -> usize {
    let mut worker = Worker::new(mailbox);
    let mut closed = 0;
    while !worker.all_came {
        worker.rest();
        worker.take_over();
        let open = worker.taken.len() - closed;
        let mut close = || {
            closed += 1;
            worker.mailbox.closed_one();
            admission.remove();
        };
        let ends_by_itself = clients_end && open > 0 && thread_rng().gen_ratio(1, 4);
        if ends_by_itself {
            close();
        }
        if worker.mailbox.is_room_asked() {
            if open > usize::from(ends_by_itself) {
                admission.make_room(|| {
                    made_room.fetch_add(1, Ordering::SeqCst);
                    close();
                });
            } else {
                admission.room_may_be_made();
            }
        }
    }
    worker.taken.len() - closed
}

/// What is left for a worker under a lock is found, whenever the worker falls asleep and whichever thread calls it, itself
/// included: the places that requests in the queue are given. And it is woken once at the most for each sleep.
///
/// It needs: in `Mailbox::fall_asleep` the announcement before the look at the call; in `call` the call before the look whether
/// the worker sleeps; the call behind what was left; and `take_call` before the worker looks for that.
pub fn calls() {
    let (mailbox, _sender) = mailbox().unwrap();
    let waker = mailbox.waker.clone();
    let given = Arc::new(Mutex::new(Vec::new()));
    let give = |number: usize| {
        let (given, mailbox) = (given.clone(), mailbox.clone());
        move || {
            given.lock().unwrap().push(number);
            mailbox.call();
        }
    };
    // One alone shows best what its call does.
    let count = thread_rng().gen_range(1..3);
    let givers: Vec<_> = (0..count).map(|giver| thread::spawn(give(giver))).collect();
    let mut give_to_itself = thread_rng().r#gen::<bool>().then(|| give(count));
    let all: Vec<usize> = (0..count + usize::from(give_to_itself.is_some())).collect();
    let (left, wanted) = (given.clone(), all.len());
    let worker = thread::spawn(move || {
        let mut worker = Worker::new(mailbox);
        let mut found = Vec::new();
        while found.len() < wanted {
            if let Some(give) = give_to_itself.take() {
                give();
            }
            worker.rest();
            if worker.mailbox.take_call() {
                found.append(&mut left.lock().unwrap());
            }
        }
        (worker, found)
    });
    for giver in givers {
        giver.join().unwrap();
    }
    let (worker, mut found) = worker.join().unwrap();
    found.sort_unstable();
    assert_eq!(found, all);
    assert!(waker.wakes() <= worker.sleeps);
}

/// Every command reaches the main thread, in order, and what was left for it elsewhere before a call is found, at whatever
/// moment it begins to wait.
///
/// It needs: in `Commands::send` the command before the call; in `Bell::ring` the flag before the notice; in `Bell::wait` the
/// look at the flag under the lock that it waits with; and what was left before the call.
pub fn commands() {
    let commands = Commands::default();
    let has_news = Arc::new(AtomicUsize::new(0));
    let (signals, told) = (commands.clone(), commands.clone());
    let sender = thread::spawn(move || {
        signals.send(Command::Reload);
        signals.send(Command::Stop);
    });
    let news = has_news.clone();
    let teller = thread::spawn(move || {
        news.store(1, Ordering::SeqCst);
        told.call();
    });
    let mut taken = Vec::new();
    while taken.len() < 2 || has_news.load(Ordering::SeqCst) == 0 {
        taken.extend(commands.next(FOR_EVER));
    }
    assert_eq!(taken, [Command::Reload, Command::Stop]);
    sender.join().unwrap();
    teller.join().unwrap();
}

/// When the process drains, the listener learns it and takes what is in its backlog; then each worker learns that no more
/// will come, and ends, in whichever order it looks at its mailbox and at what is published.
///
/// It needs what `connections` and `snapshots` need, and that the listener ends only after it has seen the snapshot.
pub fn drain() {
    const IN_BACKLOG: u16 = 3;
    let published = Arc::new(Published::new(IsDraining(false)));
    let mut senders: Vec<MailboxSender> = Vec::new();
    let mut workers = Vec::new();
    for _ in 0..2 {
        let (mailbox, sender) = mailbox().unwrap();
        senders.push(sender);
        let published = published.clone();
        let mut view = View::new(&published, mailbox.waker.clone());
        workers.push(thread::spawn(move || {
            let mut worker = Worker::new(mailbox);
            loop {
                worker.rest();
                if thread_rng().r#gen() {
                    view.look(&published);
                    worker.take_over();
                } else {
                    worker.take_over();
                    view.look(&published);
                }
                if view.value().0 && worker.all_came {
                    return worker.taken.len();
                }
            }
        }));
    }
    let waker = Arc::new(Waker::new().unwrap());
    let mut view = View::new(&published, waker.clone());
    let followed = published.clone();
    let listener = thread::spawn(move || {
        let mut backlog = 0..IN_BACKLOG;
        let mut accept = |count| {
            for number in backlog.by_ref().take(count) {
                let worker = senders.iter().min_by_key(|worker| worker.load()).unwrap();
                worker.send(connection(number));
            }
            senders.iter().for_each(MailboxSender::wake);
        };
        while !view.value().0 {
            accept(1);
            waker.wait(FOR_EVER);
            view.look(&followed);
        }
        accept(IN_BACKLOG.into());
    });
    published.publish(IsDraining(true));
    listener.join().unwrap();
    let taken: usize = workers
        .into_iter()
        .map(|worker| worker.join().unwrap())
        .sum();
    assert_eq!(taken, usize::from(IN_BACKLOG));
}

struct IsDraining(bool);

/// A wake-up that is lost for certain: the worker looks whether it may sleep, and does so unannounced. It shows that the
/// check finds one.
pub fn unannounced_sleep() {
    let (mailbox, sender) = mailbox().unwrap();
    let worker = thread::spawn(move || {
        while mailbox.receive().is_err() {
            mailbox.waker.poll(true);
        }
    });
    sender.send(connection(0));
    sender.wake();
    worker.join().unwrap();
}
