//! Changes of an input, the same ones for the same seed.

/// Longest input that is made.
const MOST_BYTES: usize = 16 << 10;
/// Changes of one input at most.
const MOST_CHANGES: usize = 6;

/// Makes changed inputs out of a corpus and a dictionary.
pub(super) struct Mutator<'a> {
    inputs: &'a [Vec<u8>],
    words: &'a [Vec<u8>],
    random: Random,
}

impl<'a> Mutator<'a> {
    /// `inputs` must not be empty.
    pub(super) fn new(inputs: &'a [Vec<u8>], words: &'a [Vec<u8>], seed: u64) -> Self {
        Self {
            inputs,
            words,
            random: Random(seed | 1),
        }
    }

    /// Returns the next input: one of the corpus with a few changes.
    pub(super) fn next(&mut self) -> Vec<u8> {
        let mut input = self.any_input().to_vec();
        for _ in 0..=self.random.below(MOST_CHANGES) {
            self.change(&mut input);
        }
        input.truncate(MOST_BYTES);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let (start, end) = self.range(input.len());
        match self.random.below(8) {
            0 => {
                if let Some(byte) = input.get_mut(start) {
                    *byte ^= 1 << self.random.below(8);
                }
            }
            1 => {
                if let Some(byte) = input.get_mut(start) {
                    *byte = self.random.next() as u8;
                }
            }
            2 => drop(input.drain(start..end)),
            3 => {
                let copy = input[start..end].to_vec();
                let at = self.random.below(input.len() + 1);
                input.splice(at..at, copy);
            }
            4 | 5 if !self.words.is_empty() => {
                let word = &self.words[self.random.below(self.words.len())];
                let end = if self.random.below(2) == 0 {
                    start
                } else {
                    end
                };
                input.splice(start..end, word.iter().copied());
            }
            6 => {
                let other = self.any_input();
                let (from, to) = self.range(other.len());
                input.splice(start..end, other[from..to].iter().copied());
            }
            _ => input.truncate(start),
        }
    }

    fn any_input(&mut self) -> &'a [u8] {
        &self.inputs[self.random.below(self.inputs.len())]
    }

    /// Returns a part of something of this length; most parts are short.
    fn range(&mut self, length: usize) -> (usize, usize) {
        let start = self.random.below(length + 1);
        let most = if self.random.below(4) == 0 {
            length
        } else {
            16
        };
        let end = start + self.random.below(most + 1);
        (start, end.min(length))
    }
}

/// Numbers that look like chance (xorshift64, Marsaglia 2003). The state is never zero.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Returns a number below `bound`, which is not zero.
    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 16) as usize % bound
    }
}

/// Reads the words of a dictionary in libFuzzer's form: a word in quotes on a line, where `\\`,
/// `\"` and `\xAB` stand for one byte; lines that begin with `#` are remarks.
pub(super) fn words(dictionary: &str) -> Vec<Vec<u8>> {
    dictionary
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| word(line).unwrap_or_else(|| panic!("no word of a dictionary: {line}")))
        .collect()
}

fn word(line: &str) -> Option<Vec<u8>> {
    let mut rest = line.strip_prefix('"')?.strip_suffix('"')?.bytes();
    let mut word = Vec::new();
    while let Some(byte) = rest.next() {
        let byte = match byte {
            b'\\' => match rest.next()? {
                b'x' => {
                    let digit = |byte: u8| char::from(byte).to_digit(16);
                    let (high, low) = (digit(rest.next()?)?, digit(rest.next()?)?);
                    u8::try_from(high << 4 | low).ok()?
                }
                escaped @ (b'\\' | b'"') => escaped,
                _ => return None,
            },
            plain => plain,
        };
        word.push(byte);
    }
    (!word.is_empty()).then_some(word)
}

#[test]
fn a_dictionary_is_read_as_libfuzzer_reads_it() {
    let words = words("# remark\n\n\"a\\x0db\"\n\"\\\"\\\\\"\n");

    assert_eq!(words, [b"a\rb".to_vec(), b"\"\\".to_vec()]);
}

#[test]
fn the_same_seed_makes_the_same_inputs() {
    let inputs = [b"one".to_vec(), Vec::new(), b"three".to_vec()];
    let words = [b"word".to_vec()];
    let made = |seed| {
        let mut mutator = Mutator::new(&inputs, &words, seed);
        (0..100).map(|_| mutator.next()).collect::<Vec<_>>()
    };

    assert_eq!(made(1), made(1));
    assert_ne!(made(1), made(2 << 20));
}
