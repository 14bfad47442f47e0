// Call the C library from Rust: one window of zeros.
//
//   rustc window.rs -L "$(pkg-config --variable=libdir mmkd)" -C link-arg=-l:libmmkd.so.1 && ./window student.edge
use std::ffi::{c_char, c_void, CStr, CString};

#[repr(C)]
struct Prediction {
    condition: i32,
    index: i32,
    label: *const c_char,
    probability: f64,
    probabilities: *const f32,
    value: f64,
    novelty: f64,
    missing_fraction: f64,
    input_age_s: f64,
    set: *const i32,
    set_size: i32,
    reason: *const c_char,
    modality: *const c_char,
}

#[repr(C)]
struct Student {
    modality: *const c_char,
    unit: *const c_char,
    samples: i32,
    channels: i32,
    rate_hz: f64,
    labels: i32,
    task: i32,
    step: i32,
    has_native: i32,
    recorded: *const c_char,
    recorded_samples: i32,
    recorded_channels: i32,
    recorded_rate_hz: f64,
}

extern "C" {
    fn mmkd_open_file(path: *const c_char, bundle: *mut *mut c_void, error: *mut c_char, size: usize) -> i32;
    fn mmkd_predictor_open(b: *mut c_void, options: *const c_void, p: *mut *mut c_void, error: *mut c_char, size: usize) -> i32;
    fn mmkd_describe(bundle: *mut c_void, student: i32) -> Student;
    fn mmkd_predict(p: *mut c_void, window: *const f32, samples: i32, channels: i32, age_s: f64, to: *mut Prediction) -> i32;
}

fn main() {
    let path = CString::new(std::env::args().nth(1).expect("usage: window BUNDLE")).unwrap();
    let (mut bundle, mut predictor) = (std::ptr::null_mut(), std::ptr::null_mut());
    let mut error = [0 as c_char; 200];
    unsafe {
        if mmkd_open_file(path.as_ptr(), &mut bundle, error.as_mut_ptr(), error.len()) != 0
            || mmkd_predictor_open(bundle, std::ptr::null(), &mut predictor, error.as_mut_ptr(), error.len()) != 0
        {
            panic!("{}", CStr::from_ptr(error.as_ptr()).to_string_lossy());
        }
        let student = mmkd_describe(bundle, 0);
        let window = vec![0f32; (student.samples * student.channels) as usize];
        let mut answer: Prediction = std::mem::zeroed();
        mmkd_predict(predictor, window.as_ptr(), student.samples, student.channels, f64::NAN, &mut answer);
        println!("{} {:.6}", CStr::from_ptr(answer.label).to_string_lossy(), answer.probability);
    }
}
