//! Tables for people: columns as wide as their widest cell.

/// Side on which the cells of a column stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// A table with a heading.
#[derive(Clone, Debug)]
pub(super) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Returns an empty table. A column whose heading begins with `>` stands on the right.
    pub(super) fn new(headings: &[&'static str]) -> Self {
        Self {
            columns: headings
                .iter()
                .map(|heading| match heading.strip_prefix('>') {
                    Some(heading) => (heading, Align::Right),
                    None => (*heading, Align::Left),
                })
                .collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; cells that are missing are empty.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Returns the lines, each with its end.
    pub(super) fn text(&self) -> String {
        let headings: Vec<String> = self
            .columns
            .iter()
            .map(|(name, _)| (*name).to_owned())
            .collect();
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|column| {
                std::iter::once(&headings)
                    .chain(&self.rows)
                    .filter_map(|row| row.get(column))
                    .map(|cell| width(cell))
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        std::iter::once(&headings)
            .chain(&self.rows)
            .map(|row| self.line(row, &widths))
            .collect()
    }

    fn line(&self, row: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for (column, &column_width) in widths.iter().enumerate() {
            let cell = row.get(column).map_or("", String::as_str);
            let blanks = " ".repeat(column_width.saturating_sub(width(cell)));
            if column > 0 {
                line.push_str("  ");
            }
            match self.columns.get(column) {
                Some((_, Align::Right)) => line.extend([blanks.as_str(), cell]),
                _ => line.extend([cell, blanks.as_str()]),
            }
        }
        line.truncate(line.trim_end().len());
        line.push('\n');
        line
    }
}

/// Returns the width of a cell in characters; colours have none.
fn width(cell: &str) -> usize {
    let mut width = 0;
    let mut in_escape = false;
    for character in cell.chars() {
        match (in_escape, character) {
            (false, '\x1b') => in_escape = true,
            (false, _) => width += 1,
            (true, 'm') => in_escape = false,
            (true, _) => {}
        }
    }
    width
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["NAME", ">FLOWS", "WHY"]);
        table.row(["gw1".to_owned(), "12".to_owned(), "ok".to_owned()]);
        table.row(["gateway-2".to_owned(), "123456".to_owned()]);

        assert_eq!(
            table.text(),
            "NAME        FLOWS  WHY\n\
             gw1            12  ok\n\
             gateway-2  123456\n"
        );
    }

    #[test]
    fn colours_take_no_room() {
        let mut table = Table::new(&["A", "B"]);
        table.row(["\x1b[31mdown\x1b[0m".to_owned(), "x".to_owned()]);
        table.row(["up".to_owned(), "y".to_owned()]);

        assert_eq!(table.text(), "A     B\n\x1b[31mdown\x1b[0m  x\nup    y\n");
    }
}
