use proptest::prelude::*;

use super::*;

fn tenant(name: &str) -> Arc<str> {
    name.into()
}

/// Runs a sequence to its end and leaves; returns what it found.
fn run(blocks: &mut Blocks, who: &Arc<str>, tokens: &[u32]) -> Option<usize> {
    let mut chain = Chain::default();
    let found = blocks.find(who, tokens, &mut chain);
    let fits = blocks.grow(&mut chain, tokens.len());
    if fits {
        blocks.seal(who, &mut chain, tokens, tokens.len());
    }
    blocks.release(&mut chain);
    fits.then_some(found)
}

#[test]
fn a_beginning_is_found_again_by_its_tenant_alone() {
    let (a, b) = (tenant("a"), tenant("b"));
    let mut blocks = Blocks::new(16, 4, true);
    let tokens: Vec<u32> = (0..11).collect();
    assert_eq!(run(&mut blocks, &a, &tokens), Some(0));
    assert_eq!(run(&mut blocks, &a, &tokens), Some(8));
    assert_eq!(run(&mut blocks, &b, &tokens), Some(0));
    // The last token has to be run, whatever is known.
    assert_eq!(run(&mut blocks, &a, &tokens[..8]), Some(4));
    assert_eq!(run(&mut blocks, &a, &[0, 1, 2, 3, 9, 9, 9, 9, 9]), Some(4));
    assert_eq!(run(&mut blocks, &a, &[4, 5, 6, 7, 8]), Some(0));
    assert_eq!(run(&mut Blocks::new(4, 4, false), &a, &tokens), Some(0));
}

#[test]
fn the_longest_unused_goes_first_and_the_end_of_a_chain_before_its_beginning() {
    let a = tenant("");
    let mut blocks = Blocks::new(4, 2, true);
    assert_eq!(run(&mut blocks, &a, &[1, 2, 3, 4]), Some(0));
    assert_eq!(run(&mut blocks, &a, &[5, 6, 7, 8]), Some(0));
    assert_eq!((blocks.available(), blocks.filled()), (4, 4));
    // One place is wanted: the end of the first chain goes, and then that of the second.
    assert_eq!(run(&mut blocks, &a, &[9, 9]), Some(0));
    assert_eq!(run(&mut blocks, &a, &[1, 2, 3]), Some(2));
    assert_eq!(run(&mut blocks, &a, &[5, 6, 7, 8]), Some(2));
    assert_eq!(run(&mut blocks, &a, &[0; 9]), None);
}

#[test]
fn sequences_that_compute_the_same_at_once_end_up_with_the_same_blocks() {
    let a = tenant("");
    let mut blocks = Blocks::new(8, 2, true);
    let tokens = [1, 2, 3, 4, 5];
    let (mut one, mut two) = (Chain::default(), Chain::default());
    for chain in [&mut one, &mut two] {
        assert_eq!(blocks.find(&a, &tokens, chain), 0);
        assert!(blocks.grow(chain, 5));
    }
    blocks.seal(&a, &mut one, &tokens, 5);
    blocks.seal(&a, &mut two, &tokens, 4);
    assert_eq!(one.blocks[..2], two.blocks[..2]);
    assert_ne!(one.blocks[2], two.blocks[2]);
    assert_eq!(blocks.available(), 8 - 4);
    blocks.release(&mut one);
    blocks.release(&mut two);
    assert_eq!(blocks.available(), 8);
}

#[test]
fn what_is_forgotten_is_found_no_more_and_its_marks_are_taken_back() {
    let a = tenant("");
    let mut blocks = Blocks::new(4, 2, true);
    let tokens = [1, 2, 3, 4, 5];
    assert_eq!(run(&mut blocks, &a, &tokens), Some(0));
    blocks.mark(&a, &tokens, &[Mark { hash: 77, tokens: 4 }]);
    assert_eq!(blocks.changed_marks().added.len(), 1);
    blocks.forget_all();
    assert_eq!((blocks.available(), blocks.filled()), (4, 0));
    assert_eq!(blocks.changed_marks().removed, [77]);
    assert_eq!(run(&mut blocks, &a, &tokens), Some(0));
    assert_eq!(run(&mut blocks, &a, &tokens), Some(4));
}

#[test]
fn a_hash_that_collides_is_no_hit() {
    let a = tenant("");
    let mut blocks = Blocks::new(8, 2, true);
    assert_eq!(run(&mut blocks, &a, &[1, 2, 3]), Some(0));
    let (_, block) = blocks.by_hash.iter().next().map(|(h, b)| (*h, *b)).unwrap();
    // Another beginning that hashes to the same.
    blocks.by_hash.insert(next(start(""), &[7, 8]), block);
    assert_eq!(run(&mut blocks, &a, &[7, 8, 9]), Some(0));
}

#[derive(Debug, Clone)]
enum Act {
    Begin(u8, Vec<u32>),
    Go(usize, usize),
    End(usize),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        (0u8..2, prop::collection::vec(0u32..3, 1..24)).prop_map(|(who, tokens)| Act::Begin(who, tokens)),
        (any::<usize>(), 1usize..9).prop_map(|(which, by)| Act::Go(which, by)),
        any::<usize>().prop_map(Act::End),
    ]
}

proptest! {
    /// Whatever sequences come and go: a block that a sequence found holds exactly that sequence's tokens,
    /// nobody writes where another reads, and every block comes back.
    #[test]
    fn blocks_hold_what_they_are_taken_for(acts in prop::collection::vec(act(), 1..120)) {
        let mut blocks = Blocks::new(9, 3, true);
        // What was written where: the test's own memory of the device.
        let mut memory: Vec<Vec<(u8, Vec<u32>)>> = vec![vec![(9, vec![]); 3]; 9];
        let mut running: Vec<(u8, Vec<u32>, Chain, usize)> = Vec::new();
        for act in acts {
            match act {
                Act::Begin(who, tokens) => {
                    let mut chain = Chain::default();
                    let found = blocks.find(&tenant(&who.to_string()), &tokens, &mut chain);
                    prop_assert!(found < tokens.len());
                    for at in 0..found {
                        let held = &memory[chain.blocks[at / 3] as usize][at % 3];
                        prop_assert_eq!(held, &(who, tokens[..=at].to_vec()));
                    }
                    if blocks.grow(&mut chain, tokens.len()) {
                        running.push((who, tokens, chain, found));
                    } else {
                        blocks.release(&mut chain);
                    }
                }
                Act::Go(which, by) if !running.is_empty() => {
                    let at = which % running.len();
                    let (who, tokens, chain, done) = &mut running[at];
                    for _ in 0..by.min(tokens.len() - *done) {
                        memory[chain.blocks[*done / 3] as usize][*done % 3] = (*who, tokens[..=*done].to_vec());
                        *done += 1;
                    }
                    blocks.seal(&tenant(&who.to_string()), chain, tokens, *done);
                    for at in 0..*done {
                        let held = &memory[chain.blocks[at / 3] as usize][at % 3];
                        prop_assert_eq!(held, &(*who, tokens[..=at].to_vec()));
                    }
                }
                Act::End(which) if !running.is_empty() => {
                    let (_, _, mut chain, _) = running.swap_remove(which % running.len());
                    blocks.release(&mut chain);
                }
                _ => {}
            }
            for (_, _, chain, done) in &running {
                // Where it will write, it is alone.
                for at in *done..chain.blocks.len() * 3 {
                    prop_assert_eq!(blocks.infos[chain.blocks[at / 3] as usize].users, 1);
                }
            }
        }
        for (_, _, mut chain, _) in running {
            blocks.release(&mut chain);
        }
        prop_assert_eq!(blocks.available(), 9);
    }
}
