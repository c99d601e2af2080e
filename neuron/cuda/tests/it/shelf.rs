use neuron_cuda::{Buffer, ErrorKind, Shelf};

use crate::support::{device, read};

#[test]
fn what_is_put_away_comes_back_as_it_was() {
    let device = device();
    let shelf = Shelf::new(&device, 200 << 20);
    assert_eq!(shelf.room(), 192 << 20);
    // Together more than two pieces, none of them a whole number of anything.
    let data: Vec<Vec<u8>> = [50_000_001, 0, 70_000_003, 17, 30_000_000]
        .iter()
        .enumerate()
        .map(|(n, len)| (0..*len).map(|i: usize| (i * 31 + n) as u8).collect())
        .collect();
    let buffers: Vec<Buffer> = data.iter().map(|data| device.upload(data).unwrap()).collect();
    let all: Vec<&Buffer> = buffers.iter().collect();
    let mut shelved = shelf.put(&all).unwrap();
    assert_eq!((shelved.len(), shelf.room()), (150_000_021, 0));

    let error = shelf.put(&all[3..4]).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Memory);
    assert!(error.text.contains("192 MiB"), "{error}");

    let others: Vec<Buffer> = data.iter().map(|data| device.alloc(data.len()).unwrap()).collect();
    let error = shelved.take(&others.iter().take(4).collect::<Vec<_>>()).unwrap_err();
    assert!(error.text.contains("150000021"), "{error}");
    shelved.take(&others.iter().collect::<Vec<_>>()).unwrap();
    for (other, data) in others.iter().zip(&data) {
        assert!(read::<u8>(other) == *data);
    }
    drop(shelved);
    assert_eq!(shelf.room(), 192 << 20);
    // Pieces are used again.
    drop(shelf.put(&all).unwrap());
    assert_eq!(shelf.room(), 192 << 20);
    assert!(Shelf::new(&device, 0).put(&all[3..4]).is_err());
}
