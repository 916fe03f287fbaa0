//! BLiMP (Warstadt et al. 2020): which of two sentences is grammatical, in 67 paradigms.

use super::super::rows::Row;
use super::super::task::{Doc, HubData, Kind, KnownSet, Task};
use crate::error::printable;

/// The name of all paradigms together; their score is the mean of theirs.
pub const GROUP: &str = "blimp";

/// One paradigm.
#[derive(Debug)]
pub struct Blimp {
    /// Its name.
    pub paradigm: &'static str,
    /// SHA-256 over its items.
    pub sha256: &'static str,
}

impl Task for Blimp {
    fn name(&self) -> String {
        format!("{GROUP}_{}", self.paradigm)
    }

    fn dataset(&self) -> &'static str {
        GROUP
    }

    fn kind(&self) -> Kind {
        Kind::Choice
    }

    fn hub(&self) -> HubData {
        HubData {
            repo: "nyu-mll/blimp",
            config: Some(self.paradigm),
            split: "train",
            examples: None,
            drops_itself: false,
        }
    }

    fn known(&self) -> KnownSet {
        KnownSet {
            count: 1000,
            sha256: vec![(self.sha256, "as in alexwarstadt/blimp")],
        }
    }

    fn file_stem(&self) -> Option<&str> {
        Some(self.paradigm)
    }

    /// The harness scores it without.
    fn takes_examples(&self) -> bool {
        false
    }

    /// Whole sentences: their context is empty, and the harness's blank before a continuation
    /// stands before them too.
    fn doc(&self, row: &Row) -> Result<Doc, String> {
        if row.has("UID") && row.text("UID")? != self.paradigm {
            let found = printable(row.text("UID")?);
            return Err(format!(
                "expected the paradigm {}, found {found}",
                self.paradigm
            ));
        }
        let sentence = |key| row.words(key).map(str::to_owned);
        let pair = vec![sentence("sentence_good")?, sentence("sentence_bad")?];
        Ok(Doc::choices(String::new(), pair, 0))
    }
}

/// The paradigms, each with the SHA-256 of its items as in alexwarstadt/blimp.
pub const PARADIGMS: [(&str, &str); 67] = [
    (
        "adjunct_island",
        "6e3b8635b8d51a96baed461111bd83fd8ded0609185e8c6a283554bb4ebeebfe",
    ),
    (
        "anaphor_gender_agreement",
        "f4707a47ab6f9dba93e5c84f097eedb8d045d46b3e9da1711d0e6bc721e0e289",
    ),
    (
        "anaphor_number_agreement",
        "f5c8a5fc47d6b0edede7edb20443e729098c2c9589f8db10fe4542a622980f17",
    ),
    (
        "animate_subject_passive",
        "be1d16c53ebf7aabcafea20eec678c72a25888b081e21a80b2d01e9dfa4730bf",
    ),
    (
        "animate_subject_trans",
        "8d694e1def0cbff02da5ed92aab7d2968621d0e30f296bd1b7efde1b46c4fa16",
    ),
    (
        "causative",
        "b4a25aae49a32a5fbbbd5d0be05f5476bbc518da4f0e1c2d1c57127c7c3f70de",
    ),
    (
        "complex_NP_island",
        "89166f4672fd982e480ad7343f487a66052da4b13440203db607e7716e02658c",
    ),
    (
        "coordinate_structure_constraint_complex_left_branch",
        "e14c0e842e177fbcc3547993266dc5c0f3e21acdc7d6d84ed9e62573838630bf",
    ),
    (
        "coordinate_structure_constraint_object_extraction",
        "612e1d6e854cbea1f48fb4994832ce4cc6ef11ee01d72c05fa7de406294f6c61",
    ),
    (
        "determiner_noun_agreement_1",
        "d1150bbd148f7adeadd847cdeb9fe64e8d55954eeadae662d78036e84325fa43",
    ),
    (
        "determiner_noun_agreement_2",
        "bcdadf6c9db012cf7125de18c909394b3371d783b21297754847b1136d3eb9b9",
    ),
    (
        "determiner_noun_agreement_irregular_1",
        "751a8ff6b37461d02ff93a4ad8b70b387281074a091fb1e72e09bc60d6579c8a",
    ),
    (
        "determiner_noun_agreement_irregular_2",
        "cc658320a47cd721f1d1400a5076dc04d9aa201845fbdb72020abb27b7ac6061",
    ),
    (
        "determiner_noun_agreement_with_adj_2",
        "2d6a741eeaf89965f4944cb766c408a52500c79b1e6b8f2ea762f2f5949a7d92",
    ),
    (
        "determiner_noun_agreement_with_adj_irregular_1",
        "c99fad700ac60a6dce0326149d1ce48ec557c8dd40004229250f1a93584b65a9",
    ),
    (
        "determiner_noun_agreement_with_adj_irregular_2",
        "eb5b1b30a4d9f6d19ee3d32d575c1ccad4bb410c323616d34c1933b85ca60d37",
    ),
    (
        "determiner_noun_agreement_with_adjective_1",
        "4a0b7b25c8bece1eca148bf2ab383b7e03b279e51a820ab664c3ce2e77d299a4",
    ),
    (
        "distractor_agreement_relational_noun",
        "5976ddbea06f3da80677e993a79ee951559bf845ae1ea9e9f176f4465cbc74d1",
    ),
    (
        "distractor_agreement_relative_clause",
        "c22a9660183d90754ffc74611c19ac89ff4ef0a16f3a4334cc649be994a0e261",
    ),
    (
        "drop_argument",
        "7f6f2f0e8a39ba64dc6fb0ee535048d22e654d9f9b0bc862ab32869535542907",
    ),
    (
        "ellipsis_n_bar_1",
        "49c37585de15b983ddd137acbcd0c31807ad81a9a746479f35cf1535269b0d1f",
    ),
    (
        "ellipsis_n_bar_2",
        "34c1fc2c3c4cad207c35625b8e52059681338706fbfa59beb9975935e1db5ae8",
    ),
    (
        "existential_there_object_raising",
        "5d3a791cc41335b65468fcd1d714d3d9708367ffa527d0da9e8bf83ac6c9f560",
    ),
    (
        "existential_there_quantifiers_1",
        "9bdd7dfb37cf0e1c9336fc7a9f218166c872b0d966dde11f23ddc58b35e92b54",
    ),
    (
        "existential_there_quantifiers_2",
        "1733b0bea838c6841f3494c047c530c9b708389c1b8c2e1398e033b790b8cf7b",
    ),
    (
        "existential_there_subject_raising",
        "1db78f8670d529915533181bcb8a7a7dafeabe7395d12c3be06103143b02ec7b",
    ),
    (
        "expletive_it_object_raising",
        "d1b06837fc001ca412924603602ec1d9d747973f46370d066eef7cd21b3af1cd",
    ),
    (
        "inchoative",
        "97a2061d2eebd39b2f68113e5724139b0b14255d5d90dd9973cbf15bfe919a6d",
    ),
    (
        "intransitive",
        "ae352d1a1cef5ce8f6ba6631f0e8c84a1d02214c606381e994d8b42aed46959a",
    ),
    (
        "irregular_past_participle_adjectives",
        "6d551e3282b825b530d1fe55e6f62306682d3029759c31c3d837e95ce2169029",
    ),
    (
        "irregular_past_participle_verbs",
        "01af40c438d8b1113f26b9a00bdcc26b80ef7cc79d203f3b77d8a41ff936dcae",
    ),
    (
        "irregular_plural_subject_verb_agreement_1",
        "bbcf31131a85161f4a9ec455125fd1ce09c3cabed216cdd6f3a9726b1e2d8d2b",
    ),
    (
        "irregular_plural_subject_verb_agreement_2",
        "dc6fefdb186bb3c2312a786839b158a6751f91d7557086ed31aa6b42cfb25cfb",
    ),
    (
        "left_branch_island_echo_question",
        "223f17035b459921e2177b5806f2f1c4a5fda13b3d33dfbea583636a10efdad0",
    ),
    (
        "left_branch_island_simple_question",
        "aa051c706ca28f233ca0e0ac7a441be3745edb62a759523841ca31b2b170c3e1",
    ),
    (
        "matrix_question_npi_licensor_present",
        "652824dbf3033429b3fdf33f158b1d1ddc04a107ff6137f5b7085ffe52746c16",
    ),
    (
        "npi_present_1",
        "989fcf2eaa2e650763c37644d6211cb9fd132497476299eb941281b5a91be39c",
    ),
    (
        "npi_present_2",
        "fbb6eeb2ebe0f07623e881888e05799adb2415590bf883bedab1cbb785acde3e",
    ),
    (
        "only_npi_licensor_present",
        "6b6724c1a987d3dd02948e12cae9573a4f58a757adc9f9f99f84593d1706a51f",
    ),
    (
        "only_npi_scope",
        "4bfbd2d71a313771645b9a0b42fd5c9d5e8c63c7d11a65f18df7dc2fe8dc9dec",
    ),
    (
        "passive_1",
        "fe2906e9b6df76e86506caf42f435c36ccaf1f68c2ddb1de755b83f24e16c2ad",
    ),
    (
        "passive_2",
        "0bb2af84689eaa3b37b8ad03cde3db9da09cee1412de78c9ac6f8fd624005b4b",
    ),
    (
        "principle_A_c_command",
        "0e5ae0adf503d64a98a17d0a7f1305324e95176420497ec84c7730a81984058f",
    ),
    (
        "principle_A_case_1",
        "d9aa044ddd3f05473ec5f32cba7e6b03d81e62a1ea6d32f14e2bd1ffa68c1e14",
    ),
    (
        "principle_A_case_2",
        "2fe9b5c313b46c5f19c8c3313698aad7eb134ef561481eead351f7e431fe611c",
    ),
    (
        "principle_A_domain_1",
        "b2925ab22d84f295e66223a847c7ec8668afe012ec94a39dc363cb62e1fb7db2",
    ),
    (
        "principle_A_domain_2",
        "41d1eddf732ab1f969ccf1d8ab2b4775a2362e9ea0f4799e3b293b4d01717ce6",
    ),
    (
        "principle_A_domain_3",
        "65d506ffc1a8e1d5d168c6d0e0f54a820e9ac8151086881782e5bc715556926d",
    ),
    (
        "principle_A_reconstruction",
        "195d2109400e87def7f231649cd6add892acd59a32463ffa0f5cca6941fc0e83",
    ),
    (
        "regular_plural_subject_verb_agreement_1",
        "52c74af92f21e303bdb6ab09f3dc539da32a429e898ad478ab0e4deb353cd59e",
    ),
    (
        "regular_plural_subject_verb_agreement_2",
        "0fd9db2235b28713f694426a7552cf748d305e5b6053aeac54d87f9faffa53ae",
    ),
    (
        "sentential_negation_npi_licensor_present",
        "9d6c461a963a8a669d54334ccfe34e4dff53df84451c09f4a79e2011c4d98921",
    ),
    (
        "sentential_negation_npi_scope",
        "44026bcf8c8bcdf90a1e43f5038da34924f4e56d48e877de537668fcf2bb7b09",
    ),
    (
        "sentential_subject_island",
        "fe10cd515a60cfb2e32e3f93ed977f0da14a70b690d1de9e0a5348cd6cb829e4",
    ),
    (
        "superlative_quantifiers_1",
        "52d77e6758a53b8b333448740d3a0f12865079f77811e998b31642012f2c363a",
    ),
    (
        "superlative_quantifiers_2",
        "058030f19f0b92054f233a0f138c8d047c97be1f5c2749a2f08bb0d44720299f",
    ),
    (
        "tough_vs_raising_1",
        "f241f3462ffe482da65a90b4632bffa7a562301155acdf6cfd22e0d29c70f777",
    ),
    (
        "tough_vs_raising_2",
        "e2fdb71ec285c3c24b9ddfa0fd2f4c148ce7dfee9c7a97b244c3592e77db4c1f",
    ),
    (
        "transitive",
        "7cda299630106068c990ea9c3dcee67e078ce001b2a6aee9090c02d9f67c11df",
    ),
    (
        "wh_island",
        "18b93a49976666bd5b3de6f57020066367e4fe48bc161af57d1690610a5d1576",
    ),
    (
        "wh_questions_object_gap",
        "38f91574bb357c768de045b333ae930d96cdf7083f683eacad4b5c62a0db9883",
    ),
    (
        "wh_questions_subject_gap",
        "ca11fac043d4c1bff93ecf9d2a8d8621a987e8e013aa821efec7eba4ee2f2862",
    ),
    (
        "wh_questions_subject_gap_long_distance",
        "c10cad6e10635a409ac383917ec615855b34aef72eaf20e2283dcce9de65196f",
    ),
    (
        "wh_vs_that_no_gap",
        "16267ad5d2cf089327de3e35e65362d45dc4e9b09eab2080b41621dcd7660ffe",
    ),
    (
        "wh_vs_that_no_gap_long_distance",
        "853050bd639a3f30486ad931afa1ac02907f39167981db2b6849ce96129abba7",
    ),
    (
        "wh_vs_that_with_gap",
        "46ffe6b6242a0437feadf0ca839542388ab6d8f6a35d65c436847498721fdff5",
    ),
    (
        "wh_vs_that_with_gap_long_distance",
        "b754723bbe6e36bef2f2b479ff26ac1b022fa21c75a02e66b6d266bafea8e2d4",
    ),
];
