use super::*;
use crate::dense::Float;

fn ones(pool: &mut Pool, rows: usize, columns: usize) -> Matrix {
    let bytes: Vec<u8> = (0..rows * columns).flat_map(|_| 1.0f32.to_le_bytes()).collect();
    Matrix::Dense(DenseMatrix::pack(pool, Float::F32, rows, columns, &bytes, |row| row))
}

#[test]
fn several_products_in_one_region() {
    for threads in [1, 2, 3] {
        let mut pool = Pool::new("test", threads).unwrap();
        let (a, b) = (ones(&mut pool, 100, 40), ones(&mut pool, 3, 40));
        let (mut x, mut y) = (Input::default(), Input::default());
        x.start(9, 40).fill(1.0);
        y.start(2, 40).fill(2.0);
        let (mut first, mut second, mut third) = (vec![0.0; 900], vec![1.0; 6], vec![]);
        let nothing = Input { columns: 40, ..Input::default() };
        multiply(
            &mut pool,
            &mut [
                Product { matrix: &a, input: &x, out: &mut first, add: false },
                Product { matrix: &a, input: &nothing, out: &mut third, add: false },
                Product { matrix: &b, input: &y, out: &mut second, add: true },
            ],
        );
        assert!(first.iter().all(|x| *x == 40.0) && second.iter().all(|x| *x == 81.0));
    }
}

#[test]
#[should_panic(expected = "columns of")]
fn shapes_that_do_not_fit_are_refused() {
    let mut pool = Pool::new("test", 1).unwrap();
    let a = ones(&mut pool, 4, 4);
    let mut x = Input::default();
    x.start(1, 5);
    multiply(&mut pool, &mut [Product { matrix: &a, input: &x, out: &mut [0.0; 4], add: false }]);
}
