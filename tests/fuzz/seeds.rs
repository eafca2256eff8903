//! Writes the corpus cases as raw bytes, as each fuzz target reads them: `seeds CASES OUT`.

use kit::case;
use std::fs;
use std::path::Path;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, cases, out] = arguments.as_slice() else {
        panic!("usage: seeds CASES OUT")
    };
    let mut count = 0;
    for group in fs::read_dir(cases)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
    {
        for path in fs::read_dir(&group)
            .unwrap()
            .map(|entry| entry.unwrap().path())
        {
            let case = case::read(&path);
            let group = group.file_name().unwrap().to_string_lossy();
            let name = format!("{group}-{}", path.file_stem().unwrap().to_string_lossy());
            let request = case.request;
            let response = case
                .backend_response
                .unwrap_or_else(|| b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec());
            // Long ones only slow the fuzzer down: its limits are small.
            if request.len() + response.len() > 4096 {
                continue;
            }
            // libFuzzer's numbers are taken from the end of the input.
            let save = |target: &str, bytes: &[u8], numbers: usize| {
                let folder = Path::new(out).join(target);
                fs::create_dir_all(&folder).unwrap();
                fs::write(folder.join(&name), [bytes, &[0].repeat(numbers)].concat()).unwrap();
            };
            let both = [request.as_slice(), b"\xff---\xff", &response].concat();
            save("exchange", &both, 4);
            save("request_head", &request, 2);
            save("response_head", &response, 3);
            for message in [&request, &response] {
                if let Some(at) = message.windows(4).position(|window| window == b"\r\n\r\n") {
                    save("chunked", &message[at + 4..], 2);
                }
            }
            count += 1;
        }
    }
    println!("{count} cases are seeds");
}
