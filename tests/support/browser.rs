//! A real browser without a window, for tests of pages.
#![allow(clippy::unwrap_used, dead_code)]

use std::path::{Path, PathBuf};
use std::process::Command;

/// Names that Chromium goes by.
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "chrome"];

/// Where the browser is, if there is one. Under CI, which sets `SCALE_CKPT_BROWSER`, there must be.
pub fn browser() -> Option<PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&paths)
        .flat_map(|dir| NAMES.map(|name| dir.join(name)))
        .find(|path| path.is_file());
    if found.is_none() {
        let wanted = std::env::var_os("SCALE_CKPT_BROWSER").is_some();
        assert!(
            !wanted,
            "SCALE_CKPT_BROWSER is set, and there is no Chromium"
        );
        eprintln!("no Chromium: the page was not opened");
    }
    found
}

/// What a page looks like after a script that asserts things in it. The script runs when the page
/// has been drawn; `check(condition, name)` fails the test, `out(text)` adds to what is returned.
/// Nothing may be written to the console.
pub fn open(browser: &Path, page: &Path, script: &str) -> String {
    let text = std::fs::read_to_string(page).unwrap();
    let own = page.with_extension("test.html");
    let added = format!(
        "<script>(() => {{ const lines = []; const out = (text) => lines.push(text); \
         const check = (ok, name) => out((ok ? 'ok ' : 'FAILED ') + name); \
         try {{ {script} }} catch (error) {{ out('FAILED ' + error.stack); }} \
         const result = document.createElement('pre'); result.id = 'result'; \
         result.textContent = '\\n' + lines.join('\\n') + '\\nend of checks'; \
         document.body.append(result); }})();</script></body>"
    );
    std::fs::write(&own, text.replace("</body>", &added)).unwrap();
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"])
        .args([
            "--enable-logging=stderr",
            "--log-level=0",
            "--window-size=1200,1000",
        ])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("file://{}", own.canonicalize().unwrap().display()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let console: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("CONSOLE"))
        .collect();
    assert!(console.is_empty(), "the page complained: {console:#?}");
    let dom = String::from_utf8_lossy(&output.stdout).into_owned();
    let from = dom
        .find("<pre id=\"result\">")
        .unwrap_or_else(|| panic!("no result:\n{said}\n{dom}"));
    let result = dom[from..].split("</pre>").next().unwrap().to_owned();
    assert!(!result.contains("FAILED"), "{result}");
    assert!(result.contains("end of checks"), "{result}");
    result
}
