//! What fits a model and what does not, in the words of the refusal.

use super::*;

fn tensor(shape: &[i64], numbers: &[f32]) -> Tensor {
    Tensor {
        name: INPUT.to_owned(),
        datatype: DATATYPE.to_owned(),
        shape: shape.to_vec(),
        numbers: numbers.to_vec(),
    }
}

#[test]
fn images_that_fit_are_counted() {
    assert_eq!(tensor(&[2, 1, 2, 2], &[0.5; 8]).check([1, 2, 2]), Ok(2));
}

#[test]
fn what_does_not_fit_is_refused_in_words() {
    let ones = |count| vec![1.0; count];
    for (shape, numbers, named) in [
        (vec![1, 1, 2, 2], ones(3), "asks for 4 numbers, data holds 3"),
        (vec![0, 1, 2, 2], ones(0), "N must be 1 to 64, not 0"),
        (vec![65, 1, 2, 2], ones(0), "not 65"),
        (vec![-1, 1, 2, 2], ones(4), "not -1"),
        (vec![i64::MAX, 1, 2, 2], ones(1), "N must be"),
        (vec![1, 4], ones(4), "[N, 1, 2, 2]"),
        (vec![], ones(4), "[N, 1, 2, 2]"),
        (vec![1, 1, 2, 2], vec![1.0, 2.0, f32::NAN, 4.0], "number 2 of data"),
        (vec![1, 1, 2, 2], vec![1.0, 2.0, 3.0, f32::INFINITY], "number 3 of data"),
    ] {
        let message = tensor(&shape, &numbers).check([1, 2, 2]).unwrap_err();
        assert!(message.contains(named), "{shape:?}: {message}");
    }
}

#[test]
fn names_and_types_are_checked() {
    let good = || tensor(&[1, 1, 2, 2], &[1.0; 4]);
    let named = Tensor { name: "x".to_owned(), ..good() };
    assert!(named.check([1, 2, 2]).unwrap_err().contains("not 'x'"));
    let typed = Tensor { datatype: "INT8".to_owned(), ..good() };
    assert!(typed.check([1, 2, 2]).unwrap_err().contains("not 'INT8'"));
}

#[test]
fn raw_numbers_come_back_as_they_were() {
    let numbers = [1.5, -0.0, f32::MAX];
    assert_eq!(from_raw(&to_raw(&numbers)).unwrap(), numbers);
    assert!(from_raw(&[0; 7]).unwrap_err().contains("7 bytes"));
}

#[test]
fn extensions_that_are_not_served_are_refused() {
    let names = ["binary_data_size".to_owned(), "shared_memory_region".to_owned()];
    assert_eq!(check_parameters(&names[..1]), Ok(()));
    assert!(check_parameters(&names).unwrap_err().contains("'shared_memory_region'"));
}
