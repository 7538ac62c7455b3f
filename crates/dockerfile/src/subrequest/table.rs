/// Columns as wide as their widest cell and `gap` spaces between them; the last one is not padded.
pub(super) fn table<const N: usize>(rows: &[[String; N]], gap: usize) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for row in rows {
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            out.push_str(cell);
            if column + 1 < N {
                let padding = width + gap - cell.chars().count();
                out.extend(std::iter::repeat_n(' ', padding));
            }
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["A".to_owned(), "B".to_owned()], ["ä12".to_owned(), String::new()]];
        assert_eq!(table(&rows, 2), "A    B\nä12  \n");
    }
}
