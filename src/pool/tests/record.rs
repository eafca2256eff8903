//! What the record of a decision says about a choice.

use crate::pool::tests::*;
use crate::pool::*;

#[test]
fn the_record_says_why_each_was_passed_over() {
    use Verdict::{Backup, Chosen, Disabled, Down, Draining, Full, Weightless};

    let mut list = backends(8);
    list[1].weight = 0;
    list[2].disabled = true;
    list[3].backup = true;
    list[4].max_connections = Some(0);
    let pool = Pool::new(list, &balance(Method::RoundRobin), &health(Kind::Tcp));
    pool.backends()[5].set_operator(Operator::Draining);
    down(&pool, 6);
    let mut decision = Decision::default();
    let choice = pool.choose(&selection(), &mut tried(&pool, &[0]), Some(&mut decision));
    assert!(matches!(choice, Choice::Backend { in_flight, .. } if in_flight.index == 7));
    let verdicts: Vec<Verdict> = decision
        .candidates()
        .0
        .iter()
        .map(|candidate| candidate.verdict)
        .collect();
    assert_eq!(
        verdicts,
        [
            Verdict::Tried,
            Weightless,
            Disabled,
            Backup,
            Full,
            Draining,
            Down,
            Chosen
        ]
    );
    assert_eq!(decision.tries().0[0].rule, Rule::Method(Method::RoundRobin));
}

#[test]
fn of_many_backends_the_record_has_the_chosen_the_tried_and_how_many_others_stood_how() {
    use Verdict::{Chosen, Down, Eligible, Tried};

    let pool = pool(50);
    down(&pool, 3);
    down(&pool, 4);
    let mut decision = Decision::default();
    let mut before = tried(&pool, &[0, 3]);
    let choice = pool.choose(&selection(), &mut before, Some(&mut decision));
    let Choice::Backend { in_flight, .. } = choice else {
        panic!("{choice:?}");
    };
    let id = |place: usize| pool.backends()[place].id;
    let (candidates, more) = decision.candidates();
    let shown: Vec<_> = candidates.iter().map(|c| (c.backend, c.verdict)).collect();
    assert_eq!(
        shown,
        [(id(0), Tried), (id(3), Tried), (in_flight.id, Chosen)]
    );
    assert_eq!(more, 47);
    assert_eq!(
        decision.others().collect::<Vec<_>>(),
        [(Eligible, 46), (Down, 1)]
    );
}
