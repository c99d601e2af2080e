use super::*;
use crate::{Order, dense::Float};

fn ones(pool: &mut Pool, rows: usize, columns: usize) -> Matrix {
    let bytes: Vec<u8> = (0..rows * columns).flat_map(|_| 1.0f32.to_le_bytes()).collect();
    Matrix::Dense(DenseMatrix::pack(pool, Float::F32, rows, columns, &bytes, Order::Stored).unwrap())
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
                Product::new(&a, &x, &mut first),
                Product::new(&a, &nothing, &mut third),
                Product::adding(&b, &y, &mut second),
            ],
        );
        assert!(first.iter().all(|x| *x == 40.0) && second.iter().all(|x| *x == 81.0));
    }
}

#[test]
fn a_bias_and_what_is_done_then_come_before_adding() {
    for (rows, count) in [(100, 30), (3, 1), (32, 12)] {
        let mut pool = Pool::new("test", 2).unwrap();
        let a = ones(&mut pool, rows, 40);
        let mut x = Input::default();
        x.start(count, 40).fill(1.0);
        let bias: Vec<f32> = (0..rows).map(|row| -(row as f32)).collect();
        for level in Level::here() {
            let mut out = vec![5.0; rows * count];
            let product = Product {
                bias: Some(&bias),
                then: Some(crate::ops::relu),
                ..Product::adding(&a, &x, &mut out)
            };
            multiply_at(level, &mut pool, &mut [product]);
            for (n, out) in out.iter().enumerate() {
                assert_eq!(*out, 5.0 + (40.0 - (n % rows) as f32).max(0.0), "{n} of {rows}");
            }
        }
    }
}

#[test]
#[should_panic(expected = "columns of")]
fn shapes_that_do_not_fit_are_refused() {
    let mut pool = Pool::new("test", 1).unwrap();
    let a = ones(&mut pool, 4, 4);
    let mut x = Input::default();
    x.start(1, 5);
    multiply(&mut pool, &mut [Product::new(&a, &x, &mut [0.0; 4])]);
}
