//! Pure: labels whose values are a closed set.

/// An enum of a label's values, made by `labels!`.
pub trait Label: Copy + 'static {
    /// The label's name.
    const KEY: &'static str;
    /// Every value.
    const VALUES: &'static [Self];

    /// Its place among [`Self::VALUES`].
    fn index(self) -> usize;

    /// Its text.
    fn text(self) -> &'static str;
}

/// Declares an enum of a label's values, each beside its text, so that none can be missing from a list of them.
macro_rules! labels {
    (
        $(#[$meta:meta])*
        $vis:vis enum $name:ident: $key:literal {
            $($(#[$variant_meta:meta])* $variant:ident = $text:literal,)+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        $vis enum $name {
            $($(#[$variant_meta])* $variant,)+
        }

        impl $name {
            /// Every variant, in order.
            $vis const ALL: [Self; [$($text),+].len()] = [$(Self::$variant),+];

            /// The text in metrics and logs.
            #[must_use]
            $vis const fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }

        impl $crate::metrics::label::Label for $name {
            const KEY: &'static str = $key;
            const VALUES: &'static [Self] = &Self::ALL;

            fn index(self) -> usize {
                self as usize
            }

            fn text(self) -> &'static str {
                self.label()
            }
        }
    };
}
pub(crate) use labels;
